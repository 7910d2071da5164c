"""Types and ranges of every command's settings: one check for all commands, before any work starts.

A key that a model below does not name is left to whatever takes it: the arguments of networks, losses, optimizers
and datasets are checked against their signatures by `yt8m.build`, Lightning's by Lightning.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from yt8m.errors import ConfigError
from yt8m.metric_table import METRICS


def _whole(low: int, high: int | None = None) -> Any:
    """A whole number in a range; true and false are none."""
    text = f"a whole number from {low:,} to {high:,}" if high else f"a whole number, {low:,} or more"
    return Annotated[int, Field(ge=low, le=high, description=text)]


def _number(low: float, high: float) -> Any:
    return Annotated[float, Field(ge=low, le=high, description=f"a number from {low:,g} to {high:,g}")]


def _choice(*choices: str) -> Any:
    texts = ", ".join(choices[:-1])
    return Annotated[Literal[choices], Field(description=f"{texts} or {choices[-1]}")]


Text = Annotated[str, Field(min_length=1, description="a non-empty text")]
Folder = Annotated[str, Field(min_length=1, description="a folder")]
Checkpoint = Annotated[
    str, Field(min_length=1, description="a checkpoint, such as RUN/checkpoints/best.ckpt")
]
Glob = Annotated[str, Field(min_length=1, description="a glob of shards, or null")]
Flag = Annotated[bool, Field(description="true or false")]
Positive = Annotated[float, Field(gt=0, description="a number above 0")]
Count = _whole(1)
Seed = _whole(0, 2**32 - 1)
Partition = _choice("train", "validate", "test")
Packages = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]],
    Field(description="names of Python packages, such as [mynet]"),
]
Metric = _choice(*(f"val/{key}" for key in METRICS))


class _Section(BaseModel):
    """Strict: no text for a number, no 1.0 for 1, no infinity. A key that is not there is not checked."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Dataset(_Section):
    root: Folder | None = None
    train: Glob | None = None
    validate_: Glob | None = Field(None, alias="validate")
    test: Glob | None = None
    level: _choice("frame", "video", "segment") | None = None
    id_key: Text | None = None
    features: (
        Annotated[dict[str, Count], Field(min_length=1, description="names and sizes of features")] | None
    ) = None
    num_classes: _whole(1, 10_000_000) | None = None
    max_frames: _whole(1, 1_000_000) | None = None
    batch_size: _whole(1, 1_000_000) | None = None
    num_workers: _whole(0, 256) | None = None
    on_corrupt: _choice("raise", "skip") | None = None
    shuffle_window: Count | None = None
    pad_to: _choice("longest", "max") | None = None
    vocabulary: Text | None = None
    target: _choice("label", "vertical") | None = None
    limit_shards: Count | None = None
    limit_videos: Count | None = None
    bucket_by_length: Flag | None = None


class GradientClip(_Section):
    norm: Positive
    per: _choice("variable", "global")


class Optimizer(_Section):
    lr: Positive


class Scheduler(_Section):
    decay: Positive = 1.0
    every_examples: Count = 1
    warmup: _number(0, 1) = 0.0


class Trainer(_Section):
    max_epochs: Annotated[int, Field(ge=-1, description="a whole number, or -1 for no limit")] | None = None
    max_steps: Annotated[int, Field(ge=-1, description="a whole number, or -1 for no limit")] = -1
    accumulate_grad_batches: Count = 1


class Classifier(_Section):
    """Arguments of `yt8m.module.VideoClassifier`, which may come from a checkpoint."""

    feature_sizes: Annotated[dict[str, Count], Field(min_length=1, description="names and sizes of features")]
    num_classes: _whole(1, 10_000_000)
    gradient_clip: GradientClip | None
    normalize: _choice("none", "l2")
    level: _choice("frame", "video", "segment")
    max_frames: _whole(1, 1_000_000)
    pad_to: _choice("longest", "max")
    target: _choice("label", "vertical")
    vocabulary: (
        Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(description="rows of texts")] | None
    )
    config: Annotated[dict[str, Any], Field(description="the run's configuration")] | None


class Train(_Section):
    trusted_packages: Packages = []
    seed: Seed
    normalize: _choice("none", "l2")
    gradient_clip: GradientClip | None
    ckpt_path: Checkpoint | None
    optimized_metric: Metric
    test: Flag
    dataset: Dataset
    optimizer: Optimizer
    scheduler: Scheduler | None
    trainer: Trainer


class Eval(_Section):
    trusted_packages: Packages = []
    ckpt_path: Checkpoint
    split: _choice("validate", "test")
    dataset: Dataset
    trainer: Trainer


class Predict(_Section):
    trusted_packages: Packages = []
    ckpt_path: Checkpoint | Annotated[list[Checkpoint], Field(min_length=1)]
    weights: Annotated[list[Positive], Field(description="positive numbers, one per checkpoint")] | None
    split: Partition
    format: _choice("csv", "names", "jsonl", "parquet")
    output: Text | None
    overwrite: Flag
    top_k: Count
    segment_label_ids: Text
    dataset: Dataset
    trainer: Trainer


class Verify(_Section):
    trusted_packages: Packages = []
    partition: _choice("train", "validate", "test", "all")
    jobs: _whole(1, 256) | None
    json_: Text | None = Field(alias="json")
    repair: Folder | None
    overwrite: Flag
    dataset: Dataset


class Explore(_Section):
    trusted_packages: Packages = []
    partition: Partition
    output: Folder
    video: Annotated[str | int, Field(description="a video's id")] | None
    limit_videos: _whole(1, 10**12) | None
    top_classes: _whole(2, 40)
    seed: Seed
    overwrite: Flag
    dataset: Dataset


class Report(_Section):
    trusted_packages: Packages = []
    runs: Annotated[list[str | int | float], Field(min_length=1, description="folders of runs")]
    output: Folder
    metric: Text
    classes: Flag
    overwrite: Flag
    dataset: Dataset


class Download(_Section):
    partition: Text
    root: Folder
    mirror: _choice("us", "eu", "asia")
    shard: Annotated[str, Field(description="X,Y, as in shard=1,100")] | None
    jobs: _whole(1, 64)
    dry_run: Flag
    overwrite: Flag
    verify: Flag
    plan_base: Text
    file_base: Text
    vocabulary_url: Text | None
    segment_label_ids_url: Text | None
    allowed_redirects: Annotated[list[Text], Field(description="[URL, ...]")]
    connect_timeout: _number(0.01, 3600)
    read_timeout: _number(0.01, 3600)
    retries: _whole(0, 100)
    backoff: _number(0, 3600)
    max_backoff: _number(0, 3600)
    max_file_size: _whole(1, 10**15)


COMMANDS: dict[str, type[_Section]] = {
    "train": Train,
    "eval": Eval,
    "predict": Predict,
    "verify": Verify,
    "explore": Explore,
    "report": Report,
    "download": Download,
}


def validate(command: str, config: dict[str, Any]) -> None:
    """Raise ConfigError for the first setting of `command` whose type or range is wrong."""
    check(COMMANDS[command], config, "; see --help")


def check(section: type[_Section], config: dict[str, Any], hint: str = "") -> None:
    """Raise ConfigError for the first value of `section` whose type or range is wrong; `hint` ends the message."""
    try:
        section.model_validate(config)
    except ValidationError as errors:
        first = errors.errors(include_url=False)[0]
        key, expected = _explain(section, first["loc"])
        found = "nothing" if first["type"] == "missing" or first["input"] is None else repr(first["input"])
        raise ConfigError(f"{key}: expected {expected or first['msg']}, found {found}{hint}") from None


def _explain(section: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, str | None]:
    """The key at a place of `section`, and what it expects."""
    fields = {field.alias or name: field for name, field in section.model_fields.items()}
    name, rest = str(loc[0]), loc[1:]
    if name not in fields:
        return name, None
    field = fields[name]
    members = [field.annotation, *getattr(field.annotation, "__args__", ())]
    inner = next((m for m in members if isinstance(m, type) and issubclass(m, BaseModel)), None)
    if inner:
        parts = [part for part in rest if part != inner.__name__]
        if not parts:
            return name, "a section of settings"
        key, expected = _explain(inner, tuple(parts))
        return f"{name}.{key}", expected
    expected = field.description or next(filter(None, map(_description, members)), None)
    optional = type(None) in members and expected is not None and "null" not in expected
    return name, f"{expected}, or null" if optional else expected


def _description(annotation: Any) -> str | None:
    described = (getattr(one, "description", None) for one in getattr(annotation, "__metadata__", ()))
    return next(filter(None, described), None)
