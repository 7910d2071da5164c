"""From a checkpoint to a file that other programs run."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from yt8m import __version__
from yt8m.errors import ConfigError, YT8MError, require
from yt8m.export.compare import Comparison, compare, onnx_scorer, program_scorer
from yt8m.export.graph import make_program
from yt8m.files import replacing
from yt8m.layers.operators import as_aten
from yt8m.module import VideoClassifier
from yt8m.restore import restore
from yt8m.train.session import lightning_session

_TOLERANCE = 1e-3  # of a score; networks exported in float32 differ by 1e-6


@lightning_session()
def export(config: dict[str, Any]) -> None:
    """Write the network of a checkpoint as `conf/export.yaml` says, and compare it with PyTorch.

    Raises:
        ConfigError: an argument is wrong, the output exists, or the network cannot be exported.
        YT8MError: the exported network scores otherwise than PyTorch; nothing is written.
    """
    output, precision = Path(config["output"]).expanduser().absolute(), config["precision"]
    _check_output(output, precision, config["overwrite"])
    split = config["split"]
    dataset = config["dataset"] | {"predict_partition": split or "test"}
    path, classifier, datamodule = restore(
        config["ckpt_path"], Path(config["output_dir"]), dataset, config["trusted_packages"]
    )
    reads = config["reads"] or ("video" if classifier.hparams["level"] == "video" else "frames")
    if classifier.segment_mark is not None:
        raise ConfigError(
            "ckpt_path: expected a network of whole videos or segments, found one of segments with context "
            "(dataset.context), whose marks an exported file does not take; export one trained without context"
        )
    if reads == "video" and classifier.needs_frames:
        raise ConfigError(
            f"reads: {type(classifier.model).__name__} needs frames, found video; leave out reads"
        )
    if split and reads != ("video" if datamodule.level == "video" else "frames"):
        raise ConfigError(
            f"split: expected {datamodule.level}-level records to hold what the file reads, found reads={reads}; set "
            "split=null to write it without a comparison"
        )
    stored = torch.float32 if datamodule.dtype == "float32" else torch.uint8
    if split:  # before the work: a wrong path should be known at once
        datamodule.prepare_data()
        datamodule.setup("predict")
    classifier.eval()
    program = make_program(classifier, reads, stored)
    facts = describe(classifier, reads, stored, precision)
    with replacing(output) as partial:
        if output.suffix == ".onnx":
            from yt8m.export import onnx_file

            model = onnx_file.convert(program, ["frames", "num_frames"] if reads == "frames" else ["video"])
            if precision != "fp32":
                onnx_file.shrink(model, precision)
            onnx_file.save(model, facts, partial)
            del model
        else:
            content = io.BytesIO()
            torch.export.save(as_aten(program), content, extra_files={"metadata.json": json.dumps(facts)})
            partial.write_bytes(content.getbuffer())
        found = None
        if split:
            scorer = (onnx_scorer if output.suffix == ".onnx" else program_scorer)(partial)
            found = compare(classifier, datamodule, scorer, reads)
            if precision == "fp32" and not found.difference <= _TOLERANCE:
                raise YT8MError(
                    f"output: expected the scores of PyTorch within {_TOLERANCE:g}, found a difference of "
                    f"{found.difference:.2g}; nothing was written to {output}"
                )
        size = partial.stat().st_size
    parameters = sum(one.numel() for one in classifier.model.parameters())
    print(f"{output}: {size / 1e6:,.1f} MB in {precision}, {parameters:,} parameters, from {path}")
    print(_sentence(found, split))


def describe(classifier: VideoClassifier, reads: str, stored: torch.dtype, precision: str) -> dict[str, str]:
    """What a program needs to know to use the file; every value is text, lists and tables are JSON."""
    hparams, classes = classifier.hparams, classifier.classes()
    facts = {
        "classes": [info.name for info in classes],
        "verticals": [list(info.verticals) for info in classes],
        "features": dict(hparams["feature_sizes"]),
        "quantization": list(hparams["quantization"]),
        "max_frames": hparams["max_frames"],
    }
    texts = {
        "network": type(classifier.model).__name__,
        "level": hparams["level"],
        "reads": reads,
        "stored": str(stored).removeprefix("torch.") if reads == "frames" else "float32",
        "precision": precision,
        "yt8m": __version__,
    }
    return texts | {key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}


def _check_output(output: Path, precision: str, overwrite: bool) -> None:
    if output.suffix not in (".onnx", ".pt2"):
        raise ConfigError(
            f"output: expected a file that ends in .onnx or .pt2, found {output.name}; set output"
        )
    if output.suffix == ".pt2" and precision != "fp32":
        raise ConfigError(
            f"precision: expected fp32 for a .pt2 file, found {precision}; set output=FILE.onnx"
        )
    if output.is_dir() or (output.exists() and not overwrite):
        raise ConfigError(f"output: expected a new file, found one at {output}; set output or overwrite=true")
    if not output.parent.is_dir():
        raise ConfigError(f"output: expected a folder at {output.parent}, found none; make it, or set output")
    if output.suffix == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            require(package, f"output={output.name}")


def _sentence(found: Comparison | None, split: str | None) -> str:
    if found is None:
        return "not compared with PyTorch (split=null)"
    text = f"against PyTorch on {found.videos:,} videos of {split}: scores differ by at most {found.difference:.1e}"
    if found.gap is None or found.exported_gap is None:
        return f"{text}; no labels, so no GAP"
    return (
        f"{text}; GAP {found.exported_gap:.5f}, PyTorch's {found.gap:.5f}, difference "
        f"{found.exported_gap - found.gap:+.5f}"
    )
