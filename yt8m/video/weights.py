"""The user's weight files: where each is published, and how it is read. Nothing is downloaded and nothing executed."""

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from yt8m.errors import ConfigError
from yt8m.video.inception import Inception
from yt8m.video.matrix import read_matrix
from yt8m.video.projection import Projection
from yt8m.video.vggish import VGGish

SIZES = {"rgb": 1024, "audio": 128}  # of the dataset's features

# Where the files are published, as pytorch-fid, torchvggish, the starter code, MediaPipe, and AudioSet say.
INCEPTION = "pt_inception-2015-12-05-6726825d.pth of https://github.com/mseitzer/pytorch-fid/releases"
VGGISH = "vggish-10086976.pth of https://github.com/harritaylor/torchvggish/releases"
RGB_PCA = (
    "mean.npy, eigenvals.npy and eigenvecs.npy of http://data.yt8m.org/yt8m_pca.tgz, or inception3_mean_matrix_data.pb "
    "and inception3_projection_matrix_data.pb of http://data.yt8m.org/pca_matrix_data"
)
AUDIO_PCA = (
    "vggish_mean_matrix_data.pb and vggish_projection_matrix_data.pb of http://data.yt8m.org/pca_matrix_data, or "
    "vggish_pca_params.npz of https://storage.googleapis.com/audioset"
)


@dataclass(frozen=True)
class FeatureNetwork:
    """A network and the projection of its activations to one feature of the dataset, and the files of both."""

    network: nn.Module
    projection: Projection
    files: tuple[Path, ...]


def load_weights(folder: Path, *, audio: bool = True) -> dict[str, FeatureNetwork]:
    """The network of each feature whose files are in a folder: `rgb`, and `audio` where there is a VGGish.

    Args:
        folder: of the files that `INCEPTION`, `VGGISH`, `RGB_PCA` and `AUDIO_PCA` describe.
        audio: whether to look for VGGish.

    Raises:
        ConfigError: a file is missing, damaged, or another one's.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"weights: expected a folder of weight files, found none at {folder}; see docs/extract.md"
        )
    inception = _one(folder, "*inception-2015-12-05*.pth", "Inception", INCEPTION)
    if inception is None:
        raise ConfigError(f"weights: expected {INCEPTION}, found no *inception-2015-12-05*.pth in {folder}")
    pca = _rgb_pca(folder)
    if pca is None:
        raise ConfigError(
            f"weights: expected the dataset's PCA, without which features lie in another space: {RGB_PCA}; found none "
            f"in {folder}"
        )
    found = {"rgb": _network("rgb", Inception, inception, pca)}
    vggish = _one(folder, "vggish-*.pth", "VGGish", VGGISH) if audio else None
    if vggish is not None:
        pca = _audio_pca(folder)
        if pca is None:
            raise ConfigError(
                f"weights: expected the PCA of VGGish beside {vggish.name}: {AUDIO_PCA}; found none in {folder}; "
                "add it, or set audio=none"
            )
        found["audio"] = _network("audio", VGGish, vggish, pca)
    return found


def md5(path: Path) -> str:
    """The md5 of a file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


Pca = tuple[Projection, tuple[Path, ...]]


def _network(feature: str, kind: type[Inception] | type[VGGish], path: Path, pca: Pca) -> FeatureNetwork:
    state = _state(path)
    try:
        network = kind(kind.width_of(state))
        # A classifier on top is not needed, and published files leave out the counts of batches.
        unused = [key for key in state if key.startswith("fc.") or key.endswith("num_batches_tracked")]
        wanted = {
            key: value
            for key, value in network.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        wanted.update({key: state[key] for key in wanted})
        extra = sorted(state.keys() - wanted.keys() - {*unused})
        if extra:
            raise ValueError(f"it has {extra[0]}")
        network.load_state_dict(wanted, strict=False)
    except (LookupError, ValueError, RuntimeError, AttributeError) as error:
        problem = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"weights: expected a state dict of {kind.__name__} in {path}, found another: "
            f"{' '.join(problem.split())[:200]}"
        ) from None
    projection, files = pca
    expected = (network.channels, SIZES[feature])
    if projection.matrix.shape != expected or projection.mean.shape != expected[:1]:
        raise ConfigError(
            f"weights: expected a mean of {expected[0]} values and a matrix of {expected[0]} by {expected[1]} in "
            f"{', '.join(map(str, files))}, found {projection.mean.shape} and {projection.matrix.shape}"
        )
    if not (np.isfinite(projection.mean).all() and np.isfinite(projection.matrix).all()):
        raise ConfigError(
            f"weights: expected finite numbers in {', '.join(map(str, files))}, found NaN or infinity"
        )
    return FeatureNetwork(network.eval().requires_grad_(False), projection, (path, *files))


def _state(path: Path) -> Mapping[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(
            f"weights: expected a readable file at {path}, found: {error.strerror or error}"
        ) from None
    except Exception as error:  # torch raises many types for a damaged file
        problem = " ".join(str(error).split()).partition(". ")[0]
        raise ConfigError(f"weights: expected a PyTorch state dict in {path}, found: {problem}") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"weights: expected a state dict of tensors in {path}, found {type(state).__name__}"
        )
    return state


def _rgb_pca(folder: Path) -> Pca | None:
    files = tuple(folder / f"{name}.npy" for name in ("mean", "eigenvecs", "eigenvals"))
    if any(path.is_file() for path in files):
        _all_there(files)
        mean, vectors, values = (_array(path) for path in files)
        size = SIZES["rgb"]
        if vectors.ndim != 2 or len(vectors) < size or values.size < size:
            raise ConfigError(
                f"weights: expected {size} eigenvectors in rows and {size} eigenvalues in {folder}, found "
                f"{vectors.shape} and {values.shape}"
            )
        return Projection.whitening(mean.reshape(-1), vectors[:size], values.reshape(-1)[:size]), files
    return _mediapipe(folder, "inception3")


def _audio_pca(folder: Path) -> Pca | None:
    found = _mediapipe(folder, "vggish")
    path = folder / "vggish_pca_params.npz"
    if found is not None or not path.is_file():
        return found
    arrays = _array(path)
    try:
        mean, matrix = (np.asarray(arrays[key], np.float64) for key in ("pca_means", "pca_eigen_vectors"))
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"weights: expected pca_means and pca_eigen_vectors in {path}, found: {error}"
        ) from None
    return Projection(mean.reshape(-1), matrix.T), (path,)


def _mediapipe(folder: Path, name: str) -> Pca | None:
    files = tuple(folder / f"{name}_{part}_matrix_data.pb" for part in ("mean", "projection"))
    if not any(path.is_file() for path in files):
        return None
    _all_there(files)
    try:
        mean, matrix = (read_matrix(path.read_bytes()) for path in files)
    except (DecodeError, ValueError) as error:
        raise ConfigError(
            f"weights: expected MediaPipe's matrices in {files[0]} and {files[1].name}, found: {error}"
        ) from None
    return Projection(mean.reshape(-1), matrix.T), files


def _array(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"weights: expected a NumPy file at {path}, found: {error}") from None


def _all_there(files: tuple[Path, ...]) -> None:
    for path in files:
        if not path.is_file():
            raise ConfigError(f"weights: expected {path.name} beside the others in {path.parent}, found none")


def _one(folder: Path, pattern: str, what: str, published: str) -> Path | None:
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConfigError(f"weights: expected one file of {what} ({published}), found {names} in {folder}")
    return found[0] if found else None
