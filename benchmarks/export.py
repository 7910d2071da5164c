"""Networks as ONNX and PT2, against PyTorch on real videos: sizes, scores, and GAP.

    python benchmarks/export.py --yt8m PATH --audioset PATH --work DIR             # every network, narrow, one epoch
    python benchmarks/export.py --yt8m PATH --audioset PATH --work DIR --trained   # three networks trained to the end

Networks of video vectors train on YouTube-8M's video level, the others on AudioSet's frames, which have audio alone.
onnxruntime runs the ONNX files, `torch.export.load` the PT2 files, on the validation videos. Each network's run and
its row are kept in DIR, so that the same command goes on where it was interrupted.
"""

import argparse
import copy
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from results import add_option, command, report

from yt8m.export import onnx_file
from yt8m.export.compare import Comparison, compare, onnx_scorer, program_scorer
from yt8m.export.export import describe
from yt8m.export.graph import make_program
from yt8m.layers.operators import as_aten
from yt8m.restore import restore

NETWORKS = Path(__file__).resolve().parents[1] / "conf" / "model"
PRECISIONS = ("fp32", "fp16", "int8")
COLUMNS = ("network", "data", "parameters", "videos", "GAP", *(f"{one}, ONNX" for one in PRECISIONS), "PT2")

# Overrides of yt8m.train, beside dataset.root.
TRAINED = {
    "nn": ["model=nn", "model.hidden_sizes=[2048]", "dataset=yt8m_video", "optimizer.lr=5e-4", "trainer.max_epochs=12"],
    "fourier_net": ["experiment=best/yt8m_video"],
    "gru": ["model=gru", "model.width=0.25", "dataset=audioset", "trainer.max_epochs=3"],
}  # fmt: skip


def narrow(network: str, width: float) -> list[str]:
    """Overrides that train a network of the zoo for one epoch."""
    kind = get_class(OmegaConf.load(NETWORKS / f"{network}.yaml")._target_)
    dataset = "audioset" if kind.needs_frames else "yt8m_video"
    few = ["dataset.limit_videos=2000", "trainer.max_epochs=1", "optimizer.lr=2e-3"]
    return [f"model={network}", f"model.width={width}", f"dataset={dataset}", *few]


def train(overrides: list[str], folder: Path) -> None:
    """Train into a folder, or go on where an earlier call was interrupted."""
    if (folder / "metrics.json").exists():
        return
    quiet = ["dataset.num_workers=0", "logger=none", "ckpt_path=auto"]
    words = [sys.executable, "-m", "yt8m.train", *overrides, *quiet, f"hydra.run.dir={folder}"]
    subprocess.run([*words, "trainer.accelerator=cpu"], check=True, stdout=subprocess.DEVNULL)


def row(name: str, folder: Path, videos: int | None) -> list[str]:
    """The row of a run: its network in each form, compared with PyTorch on up to `videos` videos."""
    dataset = {"predict_partition": "validate", "limit_videos": videos, "num_workers": 0}
    _, classifier, datamodule = restore(str(folder / "checkpoints" / "best.ckpt"), folder, dataset)
    classifier.eval()
    reads = "frames" if datamodule.level == "frame" else "video"
    stored = torch.uint8 if reads == "frames" else torch.float32
    program = make_program(classifier, reads, stored)

    def compared(scorer) -> Comparison:
        datamodule.setup("predict")
        return compare(classifier, datamodule, scorer, reads)

    cells = []
    with tempfile.TemporaryDirectory() as temporary:
        model = onnx_file.convert(program, ["frames", "num_frames"] if reads == "frames" else ["video"])
        for precision in PRECISIONS:
            file, smaller = Path(temporary) / "model.onnx", copy.deepcopy(model)
            if precision != "fp32":
                onnx_file.shrink(smaller, precision)
            onnx_file.save(smaller, describe(classifier, reads, stored, precision), file)
            cells.append(cell(file, found := compared(onnx_scorer(file))))
        content = io.BytesIO()
        torch.export.save(as_aten(program), content)
        file = Path(temporary) / "model.pt2"
        file.write_bytes(content.getbuffer())
        cells.append(cell(file, compared(program_scorer(file))))
    parameters = sum(one.numel() for one in classifier.model.parameters())
    data = "YouTube-8M, video" if reads == "video" else "AudioSet, frame"
    return [f"`{name}`", data, f"{parameters:,}", f"{found.videos:,}", f"{found.gap:.4f}", *cells]


def cell(file: Path, found: Comparison) -> str:
    change = round(found.exported_gap - found.gap, 5) + 0.0  # no -0
    return f"{file.stat().st_size / 1e6:,.1f} MB, {found.difference:.0e}, {change:+.5f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--yt8m", type=Path, required=True, help="folder of the dataset=yt8m_video")
    parser.add_argument("--audioset", type=Path, required=True, help="folder of the dataset=audioset")
    parser.add_argument("--work", type=Path, required=True, help="where runs and rows are kept")
    parser.add_argument("--trained", action="store_true", help="three trained networks in place of all")
    parser.add_argument("--networks", nargs="*", help="only these")
    parser.add_argument("--width", type=float, default=0.125, help="of the networks (default: 0.125)")
    parser.add_argument("--videos", type=int, help="to compare on (default: all; 500 unless trained)")
    add_option(parser)
    options = parser.parse_args()
    names = options.networks or (
        TRAINED if options.trained else sorted(path.stem for path in NETWORKS.glob("*.yaml"))
    )
    rows = []
    for name in names:
        overrides = TRAINED[name] if options.trained else narrow(name, options.width)
        root = options.audioset if "dataset=audioset" in overrides else options.yt8m
        folder = options.work / ("trained" if options.trained else f"width-{options.width:g}") / name
        kept = folder / "export.json"
        if not kept.exists():
            print(f"{name}: training and exporting", flush=True)
            train([*overrides, f"dataset.root={root}"], folder)
            videos = options.videos or (None if options.trained else 500)
            kept.write_text(json.dumps(row(name, folder, videos)))
        rows.append(json.loads(kept.read_text()))
    what = "trained to the end" if options.trained else f"every network at {options.width:g} of its width"
    note = "Of each file: size, largest difference of a score from PyTorch, and difference in GAP."
    if not options.trained:
        note += (
            " Trained for one epoch on 2,000 videos. Where that leaves the scores of all videos almost alike, as in "
            "`nn`, GAP depends on their last digits."
        )
    else:
        runs = [f"`{name}`: `python -m yt8m.train {' '.join(TRAINED[name])} …`" for name in names]
        note += " " + "; ".join(runs) + "."
    title = f"Exported files, {what}"
    report(options.results, title, command(parser, options), COLUMNS, rows, note)


if __name__ == "__main__":
    main()
