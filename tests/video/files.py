"""Weight files with random numbers, of narrow networks."""

from pathlib import Path

import numpy as np
import torch

from yt8m.video.inception import Inception
from yt8m.video.vggish import VGGish
from yt8m.video.weights import SIZES

WIDTH = 1 / 16
INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
VGGISH = "vggish-10086976.pth"


def write_weights(folder: Path, *, audio: bool = True, width: float = WIDTH) -> Path:
    """Everything that the extractor needs, under the names under which it is published."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    inception = Inception(width)
    images = torch.rand(8, 1, 1, 3).mul(255).expand(-1, 299, 299, -1) + torch.rand(8, 299, 299, 3) * 20
    for module in inception.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    inception(images)  # gives the statistics of batch normalization values that keep activations near 1
    activations = inception.eval()(images).detach().numpy()
    state = {key: value for key, value in inception.state_dict().items() if "num_batches" not in key}
    torch.save(state | {"fc.weight": torch.zeros(1008, 2), "fc.bias": torch.zeros(1008)}, folder / INCEPTION)
    rng = np.random.default_rng(0)
    size, spread = SIZES["rgb"], activations.std(axis=0).mean()
    np.save(folder / "mean.npy", activations.mean(axis=0)[:, None])
    vectors = rng.normal(size=(size + 5, inception.channels)) / np.sqrt(inception.channels) / spread
    np.save(folder / "eigenvecs.npy", vectors.astype(np.float32))
    np.save(folder / "eigenvals.npy", rng.uniform(0.5, 2, (size + 5, 1)).astype(np.float32))
    if audio:
        vggish = VGGish(width)
        for name, values in vggish.named_parameters():
            if name.endswith("weight"):
                torch.nn.init.kaiming_normal_(values)
        torch.save(vggish.state_dict(), folder / VGGISH)
        np.savez(
            folder / "vggish_pca_params.npz",
            pca_means=rng.normal(0, 0.01, (128, 1)),
            pca_eigen_vectors=rng.normal(size=(128, 128)) / 70,
        )
    return folder
