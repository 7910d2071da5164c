"""docs/order.md: the families of the sample's classes, and the table of networks."""

from collections import Counter

from docs import order
from yt8m.datamodules.sample import FAMILIES, sample_classes
from yt8m.report.per_class import ClassScore


def test_every_class_of_the_sample_counts_in_its_family():
    classes = sample_classes(40)
    values = {"forward": 0.9, "backward": 0.7, "rgb": 0.5, "audio": 0.25}
    scores = [ClassScore(one.name, values[one.family], 1) for one in classes]
    assert order.family_aps(scores) == (0.8, 0.5, 0.25)
    assert Counter(one.family for one in classes).keys() == set(FAMILIES)


def test_networks_are_ranked_by_the_order_only_classes():
    rows = [
        order.Row("dbof", (0.5, 0.96, 0.4), 1_250_000, 9600, 8),
        order.Row("lstm", (0.93, 0.9, 0.8), 730_000, 2400, 15),
    ]
    assert order.table(rows).splitlines()[2:] == [
        "| `lstm` | 0.930 | 0.900 | 0.800 | 0.73 M | 2,400 | 15 |",
        "| `dbof` | 0.500 | 0.960 | 0.400 | 1.25 M | 9,600 | 8 |",
    ]
