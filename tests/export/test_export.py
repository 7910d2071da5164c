"""`yt8m.export`: files that score as PyTorch does, on videos of any number and length."""

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.training import run_command
from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError
from yt8m.export import onnx_file
from yt8m.export.compare import program_scorer
from yt8m.export.graph import make_program
from yt8m.layers.batch_norm import BatchNorm
from yt8m.layers.masks import last_valid, max_over_valid, reverse_valid
from yt8m.layers.operators import as_aten
from yt8m.layers.recurrent import LSTM
from yt8m.layers.stacks import GRU, FinalLSTM
from yt8m.module import VideoClassifier

# torch.export warns about its own serialization format.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SIZES = {"rgb": 12, "audio": 5}


class EveryMechanism(torch.nn.Module):
    """Reads video vectors and frames; both kinds of recurrent layer, one of them backward, and what masks padding."""

    def __init__(self):
        super().__init__()
        self.forward_layer, self.backward_layer = FinalLSTM(17, 6), LSTM(17, 5)
        self.gated, self.norm = GRU(6, 4), BatchNorm(17)
        self.classifier = torch.nn.Linear(17 + 12 + 5 + 4 + 17, 20)

    def forward(self, video, frames, num_frames):
        frames = self.norm(frames, num_frames)
        outputs, state = self.forward_layer(frames, num_frames)
        back = last_valid(self.backward_layer(reverse_valid(frames, num_frames)), num_frames)
        gated = last_valid(self.gated(outputs), num_frames)
        return self.classifier(
            torch.cat([video, state, back, gated, max_over_valid(frames, num_frames)], dim=-1)
        )


def classifier(model: dict | torch.nn.Module, **arguments) -> VideoClassifier:
    return VideoClassifier(
        model=model,
        feature_sizes=SIZES,
        num_classes=20,
        loss={"_target_": "yt8m.losses.BCE"},
        optimizer={"_target_": "torch.optim.Adam"},
        **arguments,
    ).eval()


def padded(rng: np.random.Generator, counts: list[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Random videos with garbage past their ends."""
    return rng.integers(0, 256, (len(counts), length, 17), np.uint8), np.array(counts)


def by_pytorch(one: VideoClassifier, frames: np.ndarray, counts: np.ndarray) -> np.ndarray:
    rows = np.concatenate([video[:count] for video, count in zip(frames, counts, strict=True)])
    batch = Batch([""] * len(counts), torch.from_numpy(rows), torch.from_numpy(counts))
    with torch.no_grad():
        return one.predict_step(batch, 0).numpy()


def test_a_file_scores_as_pytorch_at_any_size(tmp_path):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    one = classifier(EveryMechanism(), transform={"_target_": "yt8m.transforms.L2"})
    program = make_program(one, "frames", torch.uint8)
    file, saved = tmp_path / "model.onnx", tmp_path / "model.pt2"
    onnx_file.save(onnx_file.convert(program, ["frames", "num_frames"]), {"key": "ü"}, file)
    session = onnxruntime.InferenceSession(file)
    with saved.open("wb") as stream:
        torch.export.save(as_aten(program), stream)
    scorer = program_scorer(saved)
    for counts, length in (([4, 1, 9], 9), ([1], 1), ([30, 2, 17, 40, 1], 40)):
        frames, num_frames = padded(rng, counts, length)
        expected = by_pytorch(one, frames, num_frames)
        (found,) = session.run(None, {"frames": frames, "num_frames": num_frames})
        np.testing.assert_allclose(found, expected, atol=1e-5)
        with torch.no_grad():
            found = scorer(torch.from_numpy(frames), torch.from_numpy(num_frames)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map == {"key": "ü"}
    operators = [node.op_type for node in onnx.load(file).graph.node]
    assert (operators.count("LSTM"), operators.count("GRU")) == (2, 1)


def test_smaller_weights_are_those_of_the_network_rounded(tmp_path):
    torch.manual_seed(0)
    one = classifier({"_target_": "yt8m.models.nn.NN", "hidden_sizes": [256], "width": 1})
    with torch.no_grad():
        next(p for p in one.model.parameters() if p.ndim > 1)[0] = 0  # a row without a scale
    program = make_program(one, "frames", torch.uint8)
    frames, counts = padded(np.random.default_rng(0), [5, 3, 8], 8)
    sizes, errors = {}, {}
    converted = onnx_file.convert(program, ["frames", "num_frames"])
    for precision in ("fp32", "fp16", "int8"):
        model = copy.deepcopy(converted)
        if precision != "fp32":
            onnx_file.shrink(model, precision)
        onnx_file.save(model, {}, tmp_path / precision)
        (found,) = onnxruntime.InferenceSession(tmp_path / precision).run(
            None, {"frames": frames, "num_frames": counts}
        )
        sizes[precision] = (tmp_path / precision).stat().st_size
        errors[precision] = np.abs(found - by_pytorch(one, frames, counts)).max()
    weights = sum(p.numel() for p in one.model.parameters() if p.ndim > 1)
    assert sizes["fp32"] - sizes["fp16"] == pytest.approx(2 * weights, rel=0.1)
    assert sizes["fp32"] - sizes["int8"] == pytest.approx(3 * weights, rel=0.15)
    assert errors["fp32"] < 1e-5
    assert 0 < errors["fp16"] < 1e-3
    assert errors["fp16"] < errors["int8"] < 3e-2


def test_more_than_an_onnx_file_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 1000)
    one = classifier({"_target_": "yt8m.models.logistic.Logistic"}, level="video")
    model = onnx_file.convert(make_program(one, "video", torch.float32), ["video"])
    with pytest.raises(ConfigError, match=r"expected at most 2 GB .* set precision=fp16 or int8"):
        onnx_file.save(model, {}, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def checkpoint(tiny_run, tmp_path_factory) -> Path:
    """The small run's checkpoint with a simpler network, which is exported faster."""
    content = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    content["hyper_parameters"]["model"] = {"_target_": "yt8m.models.logistic.Logistic"}
    torch.manual_seed(0)
    content["state_dict"] = VideoClassifier(**content["hyper_parameters"]).state_dict()
    path = tmp_path_factory.mktemp("logistic") / "best.ckpt"
    torch.save(content, path)
    return path


def test_the_command(checkpoint, tiny_run, tmp_path, capsys):
    common = [f"ckpt_path={checkpoint}", f"hydra.run.dir={tmp_path / 'run'}"]
    file = tmp_path / "model.onnx"
    run_command("export", *common, f"output={file}", "precision=fp16")
    printed = capsys.readouterr().out
    assert "against PyTorch on 30 videos of validate" in printed
    assert "difference +0.0" in printed or "difference -0.0" in printed
    metadata = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    one = VideoClassifier.load_from_checkpoint(checkpoint)
    assert json.loads(metadata["classes"]) == [info.name for info in one.classes()]
    assert json.loads(metadata["features"]) == {"rgb": 1024, "audio": 128}
    assert (metadata["reads"], metadata["stored"], metadata["precision"]) == ("frames", "uint8", "fp16")
    mistakes = {
        f"output={file}": "output: expected a new file",
        f"output={tmp_path}/model.h5": "output: expected a file that ends in .onnx or .pt2, found model.h5",
        f"output={tmp_path}/none/a.onnx": "output: expected a folder at",
        f"output={tmp_path}/a.pt2 precision=int8": "precision: expected fp32 for a .pt2 file, found int8",
        f"output={tmp_path}/a.onnx reads=video": "split: expected frame-level records to hold what the file reads",
        f"output={tmp_path}/a.onnx reads=video ckpt_path={tiny_run}/checkpoints/best.ckpt": "reads: NNStreamLSTM needs",
        f"output={tmp_path}/a.onnx dataset.validate=no/*": "dataset.validate: expected shards at",
        f"output={tmp_path}/a.onnx precision=fp8": "precision: expected fp32, fp16 or int8, found 'fp8'",
    }
    for arguments, message in mistakes.items():
        with pytest.raises(SystemExit) as ended:
            run_command("export", *common, *arguments.split())
        error = capsys.readouterr().err
        assert ended.value.code in (1, 2), arguments
        assert message in error, (arguments, error)
        assert "Traceback" not in error
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "run"}


def test_a_file_that_scores_otherwise_is_not_written(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnx_file, "convert", lambda program, inputs: onnx.ModelProto())
    monkeypatch.setattr(onnx_file, "save", lambda model, facts, path: Path(path).write_bytes(b"x"))
    run = [
        f"ckpt_path={checkpoint}",
        f"output={tmp_path}/m.onnx",
        f"hydra.run.dir={tmp_path}/r",
    ]
    count = VideoClassifier.load_from_checkpoint(checkpoint).hparams.num_classes
    monkeypatch.setattr(
        "yt8m.export.export.onnx_scorer", lambda path: lambda frames, n: torch.rand(len(n), count)
    )
    with pytest.raises(SystemExit) as ended:
        run_command("export", *run)
    assert ended.value.code == 1
    assert "expected the scores of PyTorch within 0.001" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()
