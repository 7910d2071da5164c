"""Short, distinct labels of runs: the settings by which they differ (`nn lr=0.0005`)."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from yt8m.report.hyperparameters import is_hyperparameter
from yt8m.report.runs import Run, clean

_LONGEST_VALUE = 40


def label_runs(runs: Sequence[Run]) -> None:
    """Set each run's `label`; no two are equal.

    A label is the network, if networks differ, and the values of the overrides that differ. A setting that changes only
    together with an earlier one is left out, and so is one that the run does not have. The rest of the configuration,
    then the folder, tells apart the runs that are still equal.
    """
    keys = _differing(runs)
    names = Counter(key.rpartition(".")[2] for key in keys)
    for run in runs:
        parts = []
        for key in keys:
            value = setting(run, key)
            if value is not None:
                name = key.rpartition(".")[2]
                parts.append(value if key == "model" else f"{key if names[name] > 1 else name}={value}")
        run.label = " ".join(parts) or run.model
    same = Counter(run.label for run in runs)
    for run in runs:
        if same[run.label] > 1:
            run.label = f"{run.label} ({clean(run.name or run.folder, 80)})"
    seen: Counter[str] = Counter()
    for run in runs:
        seen[run.label] += 1
        if seen[run.label] > 1:
            run.label = f"{run.label} #{seen[run.label]}"


def _differing(runs: Sequence[Run]) -> list[str]:
    """Keys of settings by which the runs differ: overridden ones as typed, then others while runs are still equal."""
    overridden = list(dict.fromkeys(key for run in runs for key in run.overrides if is_hyperparameter(key)))
    overridden = ["model", *(key for key in overridden if key != "model")]
    configured = sorted(
        {key for run in runs for key in run.config if is_hyperparameter(key)} - set(overridden)
    )
    chosen: list[str] = []
    partitions: set[tuple[int, ...]] = set()
    for key in [*overridden, *configured]:
        values = [setting(run, key) for run in runs]
        partition = tuple(map(values.index, values))
        if len(set(partition)) == 1 or partition in partitions:
            continue
        if key in overridden or _splits(partition, partitions, len(runs)):
            chosen.append(key)
            partitions.add(partition)
    return chosen


def _splits(partition: tuple[int, ...], partitions: set[tuple[int, ...]], count: int) -> bool:
    """Whether a setting tells apart runs that all the chosen ones leave together."""
    together = defaultdict(set)
    for run in range(count):
        together[tuple(chosen[run] for chosen in partitions)].add(partition[run])
    return any(len(values) > 1 for values in together.values())


def setting(run: Run, key: str) -> str | None:
    """The value of a key of the configuration, or the choice of a group; None where the run has none."""
    if key == "model":
        return run.model
    if key == "dataset":
        return run.dataset
    value = run.config.get(key)
    if value is None and f"{key}._target_" in run.config:
        value = str(run.config[f"{key}._target_"]).rpartition(".")[2]
    if value is None:
        value = run.overrides.get(key)
    if value is None or value in ("null", "None", "", "{}"):  # the last: an empty group
        return None
    return clean(f"{value:g}" if isinstance(value, float) else value, _LONGEST_VALUE)
