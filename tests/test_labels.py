"""Class names from the two kinds of vocabulary, and from damaged ones."""

import csv

import pytest

from yt8m.errors import ConfigError
from yt8m.labels import ClassInfo, read_vocabulary

HEADER = "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription\n"


def test_rows_in_any_order_with_gaps_and_empty_names(tmp_path):
    path = tmp_path / "vocabulary.csv"
    path.write_text(
        HEADER + '3,9,/m/3,"Cat, big",,Pets,Arts,,"two\nlines"\n0,9,/m/0,Dog,,Pets,,,\n1,9,/m/1,,,Food,,,\n'
    )
    assert read_vocabulary(path) == [
        ClassInfo(0, "Dog", ("Pets",)),
        ClassInfo(1, "class 1", ("Food",)),
        ClassInfo(2, "class 2"),
        ClassInfo(3, "Cat, big", ("Pets", "Arts")),
    ]


@pytest.mark.parametrize(
    ("name", "columns", "size"),
    [
        ("yt8m/vocabulary.csv", ("Index", "Name"), 3862),
        ("audioset/class_labels_indices.csv", ("index", "display_name"), 527),
    ],
)
def test_real_vocabularies(shared_data, name, columns, size):
    classes = read_vocabulary(shared_data / name)
    assert [one.index for one in classes] == list(range(size))
    with (shared_data / name).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            index, title = (row[column] for column in columns)
            assert classes[int(index)].name == (title.strip() or f"class {index}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Name\nDog\n", "@ line 1: expected a column Index or index"),
        ("Index\n0\n", "@ line 1: expected a column Name or display_name"),
        ("", "@ line 1: expected a column"),
        (HEADER + "-1,9,/m/0,Dog,,,,,\n", "@ line 2: expected a new class index, found '-1'"),
        (
            HEADER + "0,9,/m/0,Dog,,,,,\n0,9,/m/1,Cat,,,,,\n",
            "@ line 3: expected a new class index, found '0'",
        ),
        (HEADER + "9" * 5000 + ",9,/m/0,Dog,,,,,\n", "@ line 2: expected a new class index"),
        (b"Index,Name\n0,\xff\xfe\n", "dataset.vocabulary: expected a CSV file of classes"),
        (None, "dataset.vocabulary: expected a CSV file of classes"),
    ],
)
def test_a_damaged_vocabulary_is_one_line(tmp_path, content, message):
    path = tmp_path / "vocabulary.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        read_vocabulary(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
