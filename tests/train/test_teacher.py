"""Teachers: a checkpoint, and predictions that were written once."""

import copy
import sqlite3
from contextlib import closing

import numpy as np
import pytest
import torch

from tests.training import TINY, run_command, train
from yt8m.datamodules.batch import Batch
from yt8m.errors import ConfigError
from yt8m.module import VideoClassifier
from yt8m.objective import Mix
from yt8m.predict.writers import Predictions, SQLiteWriter
from yt8m.train.teacher import CheckpointTeacher, load_teachers

NAMES = [f"class {index}" for index in range(5)]


def classifier(**options):
    arguments = {
        "model": {"_target_": "yt8m.models.nn.NN", "hidden_sizes": [8]},
        "feature_sizes": {"rgb": 6, "audio": 2},
        "num_classes": 5,
        "loss": {"_target_": "yt8m.losses.BCE"},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1},
        "level": "video",
    }
    return VideoClassifier(**{**arguments, **options})


def batch_of(*ids):
    torch.manual_seed(0)
    labels = torch.tensor([[0, 1]])
    return Batch([*ids], torch.randn(len(ids), 8), torch.ones(len(ids), dtype=torch.int64), labels)


def written(path, names=NAMES):
    """Two of five classes of the videos a, b and c."""
    writer = SQLiteWriter(path, names, [])
    none = np.empty((3, 0))
    classes = np.array([[3, 0], [1, 4], [2, 1]])
    scores = np.array([[0.9, 0.25], [0.8, 0.5], [1.0, 0.0]], np.float32)
    writer.write(Predictions(["a", "b", "c"], classes, scores, none, none))
    writer.close()
    return path


def test_a_checkpoint_teaches_in_evaluation_mode_without_gradients_and_sees_the_mix():
    teacher, batch = CheckpointTeacher(classifier(transform=None)), batch_of(*"abc")
    mix = Mix(torch.tensor([0.2, 0.7, 1.0]), torch.tensor([1, 2, 0]))
    network = teacher.classifier.model
    for temperature, mixing in ((1.0, None), (3.0, mix)):
        answer, known = teacher(batch, mixing, temperature)
        assert known is None
        assert not answer.requires_grad
        x = batch.features
        if mixing is not None:
            x = torch.stack([0.2 * x[0] + 0.8 * x[1], 0.7 * x[1] + 0.3 * x[2], x[2]])
        expected = (network(x, None, batch.num_frames) / temperature).sigmoid()  # no dropout
        torch.testing.assert_close(answer, expected)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_student_and_its_copies_neither_hold_nor_copy_the_teacher(tmp_path):
    student = classifier()
    before = student.state_dict().keys()
    student.objective.teachers = [
        CheckpointTeacher(classifier()),
        *load_teachers(str(written(tmp_path / "p")), student),
    ]
    assert student.state_dict().keys() == before
    copied = copy.deepcopy(student)
    for own, theirs in zip(copied.objective.teachers, student.objective.teachers, strict=True):
        assert own is theirs


def test_predictions_are_looked_up_by_id(tmp_path):
    (teacher,) = load_teachers([str(written(tmp_path / "p.sqlite"))], classifier())
    answer, known = teacher(batch_of("b", "a"), None, 1.0)
    assert known is None
    torch.testing.assert_close(answer, torch.tensor([[0, 0.8, 0, 0, 0.5], [0.25, 0, 0, 0.9, 0]]))
    # At temperature 2, odds become their square root; 0 and 1 stay.
    answer, known = teacher(batch_of("c", "?", "a"), None, 2.0)
    assert known.tolist() == [True, False, True]
    odds = torch.tensor([1 / 3, 9.0]).sqrt()
    quarter, most = (odds / (1 + odds)).tolist()
    torch.testing.assert_close(answer, torch.tensor([[0, 0, 1.0, 0, 0], [0] * 5, [quarter, 0, 0, most, 0]]))
    assert (teacher.missing, teacher.seen) == (1, 5)

    mix = Mix(torch.tensor([0.75, 0.5, 1.0]), torch.tensor([2, 0, 1]))
    answer, known = teacher(batch_of("b", "?", "a"), mix, 1.0)
    assert known.tolist() == [True, False, False]  # b with a, ? with b, a with ?
    torch.testing.assert_close(answer[0], torch.tensor([0.25 * 0.25, 0.75 * 0.8, 0, 0.25 * 0.9, 0.75 * 0.5]))


def test_files_that_are_no_teachers_are_told_in_a_line(tmp_path):
    student, path = classifier(), tmp_path / "p.sqlite"
    text = tmp_path / "p.csv"
    text.write_text("VideoId,LabelConfidencePairs\n")
    other_sizes = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, other_sizes)

    def altered(*statements):
        with closing(sqlite3.connect(written(path))) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()
        return path

    def cut():
        path.write_bytes(written(path).read_bytes()[:3000])
        return path

    for make, says in (
        (
            lambda: tmp_path / "absent",
            r"teacher: expected a checkpoint or predictions at .*absent, found nothing",
        ),
        (
            lambda: text,
            r"teacher: expected a checkpoint or predictions in SQLite, found neither at .*format=sqlite",
        ),
        (lambda: other_sizes, r"teacher: expected a checkpoint of yt8m\.train at .*other\.ckpt"),
        (lambda: written(path, NAMES[:4]), r"teacher: expected predictions of 5 classes in .*, found 4"),
        (lambda: written(path, [*NAMES, "more"]), r"expected predictions of 5 classes in .*, found more"),
        (
            lambda: written(path, [*NAMES[:4], "Cat"]),
            r"found 'Cat' as class 4, which is 'class 4' here",
        ),
        (lambda: altered("DROP TABLE predictions"), r"no tables classes and predictions"),
        (
            lambda: altered(
                "ALTER TABLE predictions RENAME TO p", "CREATE VIEW predictions AS SELECT * FROM p"
            ),
            r"no tables classes and predictions",
        ),
        (
            lambda: altered(
                "DROP TABLE predictions", "CREATE VIRTUAL TABLE predictions USING fts5(id, classes, scores)"
            ),
            r"no tables classes and predictions",
        ),
        (cut, r"teacher: expected predictions in .*, found something else"),
        (lambda: altered("UPDATE predictions SET scores = x'00'"), "found something else"),
        (lambda: altered("UPDATE predictions SET scores = 'text'"), "found something else"),
        (lambda: altered("UPDATE predictions SET scores = x'00000000'"), "without classes and probabilities"),
        (
            lambda: altered("UPDATE predictions SET scores = x'0000c07f0000c07f'"),
            "without classes and prob",
        ),  # NaN
        (lambda: altered("UPDATE predictions SET classes = x'0900000001000000'"), "without classes and prob"),
    ):
        with pytest.raises(ConfigError, match=says) as raised:
            load_teachers(str(make()), student)[0](batch_of("a", "b"), None, 1.0)
        assert "\n" not in str(raised.value)


def test_a_run_learns_from_both_kinds(tmp_path, tiny_run, tiny_sample, capfd):
    checkpoint = tiny_run / "checkpoints" / "best.ckpt"
    predictions = tmp_path / "teacher.sqlite"
    run_command(
        *("predict", f"ckpt_path={checkpoint}", f"output={predictions}", f"hydra.run.dir={tmp_path / 'p'}"),
        *("split=train", "format=sqlite", "top_k=30", "dataset.limit_videos=60", "trainer=cpu"),
    )
    options = ["trainer.max_epochs=1", "test=false", "distillation.weight=1"]
    metrics = train(tmp_path, *TINY, *tiny_sample, *options, f"teacher=[{checkpoint},{predictions}]")
    assert metrics["train/missing_predictions"] == 40
    assert "40 of 100 videos have no predictions in" in capfd.readouterr().err
    saved, before = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (tmp_path, tiny_run)
    )
    assert saved["state_dict"].keys() == before["state_dict"].keys()
    assert saved["hyper_parameters"]["config"]["teacher"] == [str(checkpoint), str(predictions)]


def test_a_teacher_of_other_classes_or_inputs_is_refused(tmp_path, tiny_run, tiny_sample, capfd):
    checkpoint = tiny_run / "checkpoints" / "best.ckpt"
    for override, says in (
        ("dataset.target=vertical", "teacher: expected checkpoints that agree, found num_classes = 40 in "),
        ("dataset.max_frames=20", "teacher: expected checkpoints that agree, found max_frames = 300 in "),
    ):
        with pytest.raises(SystemExit):
            train(tmp_path, *TINY, *tiny_sample, f"teacher={checkpoint}", override)
        assert says in capfd.readouterr().err
