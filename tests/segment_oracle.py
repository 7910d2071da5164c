"""The segment challenge's metric, written from its definition: loops over lists, nothing of the package."""

from collections.abc import Mapping, Sequence

#: Ratings by (segment, class): whether the class is true of it.
Ratings = Mapping[tuple[str, int], bool]


def average_precision(ranked: Sequence[str], label: int, ratings: Ratings, k: int) -> float | None:
    """AP of one class's list of segments, best first; None for a class without positives."""
    positives = sum(good for (_, other), good in ratings.items() if other == label)
    if not positives:
        return None
    total = hits = seen = 0.0
    for segment in ranked[:k]:
        if (segment, label) in ratings:
            seen += 1
            if ratings[segment, label]:
                hits += 1
                total += hits / seen
    return total / min(positives, k)


def mean_average_precision(lists: Mapping[int, Sequence[str]], ratings: Ratings, k: int = 100_000) -> float:
    """MAP@K of the lists by class; a class with positives and without a list counts 0."""
    rated = {label for (_, label), good in ratings.items() if good}
    found = [average_precision(lists.get(label, ()), label, ratings, k) for label in sorted(rated)]
    values = [value for value in found if value is not None]
    return sum(values) / len(values) if values else 0.0
