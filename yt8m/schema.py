"""Types and ranges of every command's settings: one check for all commands, before any work starts.

A key that a model below does not name is left to whatever takes it: the arguments of networks, losses, optimizers
and datasets are checked against their signatures by `yt8m.build`, Lightning's by Lightning.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from yt8m.errors import ConfigError
from yt8m.expectations import enumerate_or, explain
from yt8m.metric_table import METRICS

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=1)]
Limit = Annotated[int, Field(ge=-1, description="a whole number, or -1 for no limit")]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=3600)]
Text = Annotated[str, Field(min_length=1)]
Folder = Annotated[str, Field(min_length=1, description="a folder")]
Checkpoint = Annotated[
    str, Field(min_length=1, description="a checkpoint, such as RUN/checkpoints/best.ckpt")
]
Teachers = Annotated[
    str | list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1, description="a checkpoint or a file of predictions, or a list of them"),
]
Glob = Annotated[str, Field(min_length=1, description="a glob of shards")]
Partition = Literal["train", "validate", "test"]
Limits = Annotated[Sequence[float], Field(min_length=2, max_length=2, description="two numbers, [min, max]")]
Packages = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]],
    Field(description="names of Python packages, such as [mynet]"),
]

_METRICS = enumerate_or([f"val/{key}" for key in METRICS])


def _is_metric(name: str) -> str:
    if name not in {f"val/{key}" for key in METRICS}:
        raise ValueError
    return name


class _Section(BaseModel):
    """Strict: no text for a number, no 1.0 for 1, no infinity. A key that is not there is not checked."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Dataset(_Section):
    root: Folder | None = None
    train: Glob | None = None
    validate_: Glob | None = Field(None, alias="validate")
    test: Glob | None = None
    level: Literal["frame", "video", "segment"] | None = None
    id_key: Text | None = None
    features: (
        Annotated[dict[str, Count], Field(min_length=1, description="names and sizes of features")] | None
    ) = None
    dtype: Literal["uint8", "float32"] | None = None
    quantization: Limits | None = None
    num_classes: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    max_frames: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    num_workers: Annotated[int, Field(ge=0, le=256)] | None = None
    on_corrupt: Literal["raise", "skip"] | None = None
    shuffle_window: Count | None = None
    pad_to: Literal["longest", "max"] | None = None
    vocabulary: Text | None = None
    target: Literal["label", "vertical"] | None = None
    limit_shards: Count | None = None
    limit_videos: Count | None = None
    bucket_by_length: bool | None = None
    segments: Literal["all", "rated"] | None = None
    context: Annotated[int, Field(ge=0, le=1_000_000)] | Literal["video"] | None = None
    predict_partition: Partition | None = None
    manifest: Text | None = None
    cache_dir: Folder | None = None
    cache_limit: Annotated[str | int, Field(description="a size such as 200GB")] | None = None


class Transform(_Section):
    path: Annotated[str, Field(min_length=1, description="a NumPy file of eigenvalues")] | None = None
    feature: Text | None = None
    offset: float = 0.0
    max_videos: Annotated[int, Field(ge=1, le=10**12)] | None = None


class GradientClip(_Section):
    norm: Positive
    per: Literal["variable", "global"]


class Optimizer(_Section):
    lr: Positive
    weight_decay: NotNegative = 0.0


Decays = Annotated[
    dict[str, NotNegative], Field(description="paths in the network, each with a number, 0 or more")
]


class Scheduler(_Section):
    decay: Positive = 1.0
    every_examples: Count = 1
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.0


class Average(_Section):
    decay: Annotated[float, Field(ge=0, lt=1, description="a number from 0 to below 1")] = 0.0
    warmup: bool = False
    start_epoch: Annotated[int, Field(ge=0)] = 0
    every_n_steps: Count | None = None


class Trainer(_Section):
    max_epochs: Limit | None = None
    max_steps: Limit = -1
    accumulate_grad_batches: Count = 1
    matmul: Literal["highest", "high", "medium"] | None = None
    cuda_streams: bool = False


class Distillation(_Section):
    model_config = ConfigDict(extra="forbid")
    temperature: Positive = 1
    weight: Share = 0.5


class Objective(_Section):
    """Arguments of `yt8m.objective.Objective`."""

    model_config = ConfigDict(extra="forbid")
    mixup: NotNegative = 0
    label_smoothing: Share = 0
    stream_dropout: Share = 0
    frame_subsample: Count | None = None
    splice: Share = 0
    unrated: Literal["ignored", "negative"] = "ignored"
    distillation: Distillation | None = None


class Classifier(_Section):
    """Arguments of `yt8m.module.VideoClassifier`, which may come from a checkpoint."""

    feature_sizes: Annotated[dict[str, Count], Field(min_length=1, description="names and sizes of features")]
    num_classes: Annotated[int, Field(ge=1, le=10_000_000)]
    weight_decay: Decays | None
    objective: Objective | None
    gradient_clip: GradientClip | None
    normalize: Literal["none", "l2"]
    quantization: Limits
    level: Literal["frame", "video", "segment"]
    segment_classes: Annotated[list[int], Field(description="a list of classes")] | None
    context: Annotated[int, Field(ge=0, le=1_000_000)] | Literal["video"]
    max_frames: Annotated[int, Field(ge=1, le=1_000_000)]
    pad_to: Literal["longest", "max"]
    target: Literal["label", "vertical"]
    vocabulary: (
        Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(description="rows of texts")] | None
    )
    config: Annotated[dict[str, Any], Field(description="the run's configuration")] | None


class Train(Objective):
    model_config = ConfigDict(extra="allow")
    trusted_packages: Packages = []
    seed: Seed
    normalize: Literal["none", "l2"]
    weight_decay: Decays | None
    transform: Transform | None
    gradient_clip: GradientClip | None
    teacher: Teachers | None
    ckpt_path: Checkpoint | None
    init_from: Checkpoint | None
    optimized_metric: Annotated[str, AfterValidator(_is_metric), Field(description=_METRICS)]
    compile: bool | Literal["max"]
    test: bool
    dataset: Dataset
    optimizer: Optimizer
    scheduler: Scheduler | None
    average: Average | None
    trainer: Trainer


Checkpoints = Checkpoint | Annotated[list[Checkpoint], Field(min_length=1)]
Weights = Annotated[
    list[Positive] | Literal["fit"] | None, Field(description="positive numbers, one per checkpoint, or fit")
]


class Eval(_Section):
    trusted_packages: Packages = []
    ckpt_path: Checkpoints
    weights: Weights
    fit_on: Partition
    split: Literal["validate", "test"]
    dataset: Dataset
    trainer: Trainer


class Predict(_Section):
    trusted_packages: Packages = []
    ckpt_path: Checkpoints
    weights: Annotated[
        list[Positive] | Text | None,
        Field(
            description="positive numbers, one per checkpoint, or fit; with video, a folder of weight files"
        ),
    ]
    video: Text | None
    seconds: Annotated[int, Field(ge=1, le=3600)]
    audio: Literal["auto", "zeros"]
    fit_on: Partition
    split: Partition
    format: Literal["csv", "names", "jsonl", "parquet", "sqlite"]
    output: Text | None
    overwrite: bool
    top_k: Count
    segment_label_ids: Text
    combine: Literal["segment", "video", "product", "mean"]
    video_ckpt_path: Checkpoints | None
    dataset: Dataset
    trainer: Trainer


class Score(_Section):
    submission: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, description="CSV files")]
    )
    labels: Glob
    id_key: Text
    strict: bool
    json_: Text | None = Field(alias="json")
    overwrite: bool


class Export(_Section):
    trusted_packages: Packages = []
    ckpt_path: Checkpoint
    output: Text
    precision: Literal["fp32", "fp16", "int8"]
    reads: Literal["frames", "video"] | None
    split: Partition | None
    overwrite: bool
    dataset: Dataset


class Demo(_Section):
    trusted_packages: Packages = []
    ckpt_path: Checkpoint
    split: Partition
    weights: Folder | None
    upload_mb: Annotated[float, Field(gt=0, description="a number of megabytes above 0")]
    upload_seconds: Annotated[float, Field(gt=0, description="a number of seconds above 0")]
    port: Annotated[int, Field(ge=0, le=65_535)]
    dataset: Dataset


class Verify(_Section):
    trusted_packages: Packages = []
    partition: Literal["train", "validate", "test", "all"]
    jobs: Annotated[int, Field(ge=1, le=256)] | None
    json_: Text | None = Field(alias="json")
    repair: Folder | None
    manifest: Text | None
    index: bool
    overwrite: bool
    dataset: Dataset


class Explore(_Section):
    trusted_packages: Packages = []
    partition: Partition
    output: Folder
    video: Annotated[str | int, Field(description="a video's id")] | None
    limit_videos: Annotated[int, Field(ge=1, le=10**12)] | None
    top_classes: Annotated[int, Field(ge=2, le=40)]
    seed: Seed
    overwrite: bool
    dataset: Dataset


class Report(_Section):
    trusted_packages: Packages = []
    runs: Annotated[list[str | int | float], Field(min_length=1, description="folders of runs")]
    output: Folder
    metric: Text
    classes: bool
    into: Annotated[str, Field(min_length=1, description="a Markdown page")] | None
    place: Annotated[str, Field(pattern=r"^[\w-]+$", description="a word")] | None
    overwrite: bool
    dataset: Dataset


class Download(_Section):
    partition: Text
    root: Folder
    mirror: Literal["us", "eu", "asia"]
    shard: Annotated[str, Field(description="X,Y, as in shard=1,100")] | None
    jobs: Annotated[int, Field(ge=1, le=64)]
    dry_run: bool
    overwrite: bool
    verify: bool
    plan_base: Text
    file_base: Text
    vocabulary_url: Text | None
    segment_label_ids_url: Text | None
    allowed_redirects: Annotated[list[Text], Field(description="[URL, ...]")]
    connect_timeout: Annotated[float, Field(ge=0.01, le=3600)]
    read_timeout: Annotated[float, Field(ge=0.01, le=3600)]
    retries: Annotated[int, Field(ge=0, le=100)]
    backoff: Seconds
    max_backoff: Seconds
    max_file_size: Annotated[int, Field(ge=1, le=10**15)]


class Extract(_Section):
    videos: Annotated[str | list[Text], Field(min_length=1, description="a glob of videos, or a list")] | None
    output: Folder | None
    weights: Folder | None
    audio: Literal["auto", "none", "zeros"]
    max_frames: Annotated[int, Field(ge=1, le=100_000)]
    partition: Partition
    shard_videos: Annotated[int, Field(ge=1, le=1_000_000)]
    jobs: Annotated[int, Field(ge=1, le=256)] | None
    device: Text | None
    compare: Folder | None


COMMANDS: dict[str, type[_Section]] = {
    "train": Train,
    "eval": Eval,
    "predict": Predict,
    "score": Score,
    "export": Export,
    "demo": Demo,
    "verify": Verify,
    "explore": Explore,
    "report": Report,
    "download": Download,
    "extract": Extract,
}


def validate(command: str, config: dict[str, Any]) -> None:
    """Raise ConfigError for the first setting of `command` whose type or range is wrong."""
    check(COMMANDS[command], config, hint="; see --help")


def check(section: type[_Section], config: dict[str, Any], *, prefix: str = "", hint: str = "") -> None:
    """Raise ConfigError for the first value of `section` whose type or range is wrong.

    The message is `prefix`, the key, what was expected, what was found, and `hint`.
    """
    try:
        section.model_validate(config)
    except ValidationError as errors:
        first = errors.errors(include_url=False)[0]
        key, expected = explain(section, first["loc"])
        found = "nothing" if first["type"] == "missing" or first["input"] is None else repr(first["input"])
        raise ConfigError(f"{prefix}{key}: expected {expected}, found {found}{hint}") from None
