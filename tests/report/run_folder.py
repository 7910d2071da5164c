"""Run folders written by hand."""

import json
from pathlib import Path

CONFIG = """\
model: {_target_: yt8m.models.nn.NN, hidden_sizes: [8, 4]}
optimizer: {_target_: torch.optim.Adam, lr: 0.01}
"""
CSV = "epoch,step,seconds,train/loss_step,val/gap\n0,1,0.5,3.0,\n0,3,1.5,2.0,\n0,3,2.0,,0.25\n"


def write_run(
    folder: Path,
    config: str = CONFIG,
    metrics: dict | str | None = None,
    log: str = "",
    overrides: str = "",
    logged: str = "",
) -> Path:
    """A run folder; `metrics` as values, or as the file's text."""
    files = {".hydra/config.yaml": config, ".hydra/overrides.yaml": overrides, "train.log": log}
    files["csv/version_0/metrics.csv"] = logged
    if metrics is not None:
        files["metrics.json"] = metrics if isinstance(metrics, str) else json.dumps(metrics)
    for name, text in files.items():
        if text:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return folder
