"""Genres: read from the vocabulary, learnt as a target of their own, and concluded from labels."""

import csv
import json

import numpy as np
import pytest
import torch

from tests.training import TINY, run_command, train
from yt8m.labels import Genres, genre_names, read_vocabulary

VERTICALS = [("Games",), ("Games", "Sports"), ("(Unknown)",), (), ("Arts & Entertainment",)]


def test_names_are_sorted_and_unknown_is_none():
    assert genre_names(VERTICALS) == ["Arts & Entertainment", "Games", "Sports"]
    assert genre_names([]) == []


def test_a_video_has_the_genres_of_all_its_labels():
    pairs = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3], [3, 1], [3, 4]])
    expected = [[0, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert Genres(VERTICALS).of_labels(pairs, 5).int().tolist() == expected


def test_scores_are_combined_by_noisy_or_over_the_twenty_best_labels():
    rng = np.random.default_rng(0)
    verticals = [tuple(rng.choice(["a", "b", "c", "(Unknown)"], size=rng.integers(1, 3))) for _ in range(50)]
    scores = rng.random((7, 50), dtype=np.float32)
    combined = Genres(verticals).of_scores(torch.from_numpy(scores)).numpy()
    for video in range(7):
        best = np.argsort(-scores[video])[:20]
        for column, genre in enumerate(["a", "b", "c"]):
            missing = 1.0
            for label in best:
                if genre in verticals[label]:
                    missing *= 1.0 - float(scores[video, label])
            assert combined[video, column] == pytest.approx(1 - missing, abs=1e-6)


def test_without_verticals_there_are_no_genres():
    assert Genres([(), ()]).of_scores(torch.rand(3, 2)).shape == (3, 0)
    assert Genres([]).of_scores(torch.rand(3, 2)).shape == (3, 0)


@pytest.fixture(scope="module")
def genre_run(tmp_path_factory, tiny_sample):
    folder = tmp_path_factory.mktemp("genres")
    return folder, train(folder, *TINY, *tiny_sample, "dataset.target=vertical")


def test_a_genre_model_has_an_output_per_genre_and_carries_their_names(genre_run, tiny_sample):
    from yt8m.module import VideoClassifier

    folder, record = genre_run
    classifier = VideoClassifier.load_from_checkpoint(folder / "checkpoints" / "best.ckpt", weights_only=True)
    names = ["Arts & Entertainment", "Autos & Vehicles", "Food & Drink", "Games"]
    assert [info.name for info in classifier.classes()] == names
    assert classifier.hparams.num_classes == classifier.model.classifier.out_features == 4
    assert record["val/gap"] > 0.3


def test_a_genre_model_is_evaluated_without_the_vocabulary(genre_run, tiny_sample, tmp_path):
    """The checkpoint knows which labels make a genre: only shards are needed."""
    folder, record = genre_run
    root = tmp_path / "shards"
    root.mkdir()
    (root / "validate").symlink_to(f"{tiny_sample[0].removeprefix('dataset.root=')}/validate")
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    dataset = content["hyper_parameters"]["config"]["dataset"]
    dataset["_target_"] = "yt8m.datamodules.datamodule.YT8MDataModule"  # writes no sample, and no vocabulary
    del dataset["sample"]
    torch.save(content, tmp_path / "genres.ckpt")
    run_command(
        "eval",
        f"ckpt_path={tmp_path}/genres.ckpt",
        f"dataset.root={root}",
        f"hydra.run.dir={tmp_path / 'eval'}",
        "trainer=cpu",
    )
    again = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert again["val/gap"] == pytest.approx(record["val/gap"], abs=1e-6)
    assert again["val/genre_gap"] == again["val/gap"]
    with (tmp_path / "eval" / "genres.csv").open(newline="") as file:
        rows = {row["genre"]: row for row in csv.DictReader(file)}
    assert rows["Games"]["mean_ap_top20"] == rows["Games"]["genre_ap_top20"] != ""


def test_a_dataset_without_verticals_is_refused(tmp_path, tiny_sample, capsys):
    vocabulary = tmp_path / "names.csv"
    vocabulary.write_text("index,mid,display_name\n" + "".join(f"{i},,c{i}\n" for i in range(40)))
    with pytest.raises(SystemExit):
        run_command(
            "train",
            *TINY,
            *tiny_sample,
            "dataset.target=vertical",
            f"dataset.vocabulary={vocabulary}",
            f"hydra.run.dir={tmp_path / 'run'}",
        )
    error = capsys.readouterr().err
    assert "dataset.target: vertical needs a vocabulary of 40 classes with verticals" in error
    assert "Traceback" not in error


def test_a_vocabulary_of_other_classes_gives_no_names(tmp_path, tiny_sample, caplog):
    vocabulary = tmp_path / "names.csv"
    vocabulary.write_text("index,mid,display_name\n0,,wrong\n")
    train(
        tmp_path / "run",
        *TINY,
        *tiny_sample,
        f"dataset.vocabulary={vocabulary}",
        "trainer.max_epochs=1",
        "test=false",
    )
    assert "expected 40 classes, found 1" in (tmp_path / "run" / "train.log").read_text()
    content = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["hyper_parameters"]["vocabulary"] is None


def test_the_official_vocabulary_has_24_genres(shared_data):
    classes = read_vocabulary(shared_data / "yt8m" / "vocabulary.csv")
    genres = Genres([info.verticals for info in classes])
    assert len(genres) == 24
    assert {"Games", "Arts & Entertainment", "Autos & Vehicles"} <= set(genres.names)
    assert int((~genres.members.any(dim=1)).sum()) == 138  # classes marked (Unknown)
    by_name = {info.name: genres.members[info.index] for info in classes}
    assert [genres.names[i] for i in by_name["Video game"].nonzero()] == ["Games"]
