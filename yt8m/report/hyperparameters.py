"""The hyperparameters in which runs differ, and how much of a metric's variance each explains."""

import math
from dataclasses import dataclass

from yt8m.report.runs import Run, clean

DEFAULT = "default"  # the value of a run whose configuration leaves the key to the constructor
FEW_RUNS = 10  # with fewer, chance alone makes some hyperparameter look important

# Keys that say where and how a run was recorded and fed, not what was trained.
_NOT_HYPER = (
    "output_dir",
    "ckpt_path",
    "test",
    "optimized_",
    "logger",
    "callbacks",
    "hydra",
    "hparams_search",
    "dataset.root",
    "dataset.train",
    "dataset.validate",
    "dataset.test",
    "dataset.vocabulary",
    "dataset.num_workers",
    "trainer.default_root_dir",
    "trainer.log_every_n_steps",
    "trainer.check_val_every_n_epoch",
    "trainer.val_check_interval",
    "trainer.num_sanity_val_steps",
    "trainer.enable_",
    "trainer._target_",
)
_BINS = 4


@dataclass(frozen=True)
class Hyperparameter:
    """A key in which runs differ, with each run's value, in the order of the runs.

    Attributes:
        together: keys that change in the same way; their effects cannot be separated.
        importance: share of the metric's variance that it explains, 0 to 1; None if it cannot be computed.
    """

    key: str
    values: list[float | str]
    importance: float | None
    together: list[str]

    @property
    def is_numeric(self) -> bool:
        return all(isinstance(value, int | float) for value in self.values)


def is_hyperparameter(key: str) -> bool:
    """Whether a key of the configuration can change what is learned."""
    return not key.startswith(_NOT_HYPER)


def varied(runs: list[Run], metric: str) -> list[Hyperparameter]:
    """The hyperparameters in which runs differ, most important first.

    Args:
        runs: all with a value of the metric.
        metric: its key in metrics.json.
    """
    keys = {key for run in runs for key in run.config if is_hyperparameter(key)}
    scores = [score for run in runs if (score := run.number(metric)) is not None]
    found: dict[tuple[int, ...], Hyperparameter] = {}
    for key in sorted(keys, key=lambda key: (not key.endswith("._target_"), key.count("."), key)):
        values = [_value(run.config[key]) if key in run.config else DEFAULT for run in runs]
        if not _is_chosen(key, values, runs):
            continue
        partition = tuple(map(values.index, values))
        name = key.removesuffix("._target_")
        if partition in found:
            found[partition].together.append(name)
        elif len(set(partition)) > 1:
            found[partition] = Hyperparameter(name, values, importance(values, scores), [])
    return sorted(found.values(), key=lambda one: (one.importance is None, -(one.importance or 0), one.key))


def _is_chosen(key: str, values: list[float | str], runs: list[Run]) -> bool:
    """Whether runs that share the key's class differ in it: the default widths of two networks were not chosen."""
    target = f"{key.partition('.')[0]}._target_"
    classes = [run.config.get(target) if key != target else None for run in runs]
    return len(set(zip(classes, values, strict=True))) > len(set(classes))


def importance(values: list[float | str], scores: list[float]) -> float | None:
    """Share of the scores' variance that a hyperparameter explains: ε² (Kelley, 1935).

    ε² = 1 - (1 - η²)·(n - 1)/(n - k) for n runs in k groups, where η² is the between-group sum of squares over the
    total. Unlike η², it does not grow just because there are more groups. A group is one value, or one of four
    quantile bins if there are more than four numbers.

    Returns:
        0 to 1 (negative ε² counts as 0); None if every group is a single run or all scores are equal.
    """
    groups = _groups(values)
    n, k = len(scores), len(set(groups))
    mean = sum(scores) / n
    total = sum((score - mean) ** 2 for score in scores)
    if n <= k or min(scores) == max(scores):
        return None
    within = 0.0
    for group in set(groups):
        members = [score for score, own in zip(scores, groups, strict=True) if own == group]
        within += sum((score - sum(members) / len(members)) ** 2 for score in members)
    return max(0.0, 1 - within / total * (n - 1) / (n - k))


def _groups(values: list[float | str]) -> list[float | str | int]:
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(set(numbers)) <= _BINS or len(numbers) < len(values):
        return list(values)
    ordered = sorted(numbers)
    cuts = [ordered[math.ceil(len(ordered) * part / _BINS) - 1] for part in range(1, _BINS)]
    return [sum(number > cut for cut in cuts) for number in numbers]


def _value(value: object) -> float | str:
    """Numbers stay numbers, `yt8m.models.nn.NN` becomes NN, anything else text."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    text = clean(value)
    return text.rpartition(".")[2] if text.startswith(("yt8m.", "torch.")) else text
