"""The train command end to end: every network, every error, every output file."""

import csv
import json
import re

import pytest
import torch
from omegaconf import OmegaConf

from tests.models.networks import MODELS
from tests.training import TINY, run_command, train


@pytest.mark.parametrize("model", MODELS)
def test_every_network_trains_on_the_sample(model, tiny_sample, tmp_path, capsys):
    run_command(
        "train",
        f"model={model}",
        "model.width=0.01",
        "debug=fast",
        "trainer=cpu",
        "dataset.batch_size=8",
        f"hydra.run.dir={tmp_path}",
        *tiny_sample,
    )
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["model"] == model
    assert 0 <= record["val/gap"] <= 1
    assert record["train/loss"] > 0


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_sample):
    """A small finished run: its folder and metrics.json."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(folder, *TINY, *tiny_sample, "+trainer.enable_progress_bar=true")


def test_a_run_writes_all_its_files(run):
    folder, record = run
    assert {"config.yaml", "overrides.yaml", "hydra.yaml"} <= {p.name for p in (folder / ".hydra").iterdir()}
    assert {"best.ckpt", "last.ckpt"} == {p.name for p in (folder / "checkpoints").iterdir()}
    assert (folder / "csv" / "version_0" / "metrics.csv").is_file()
    for prefix, names in {"train": ["loss"], "val": ["loss", "hit1", "perr", "gap", "map"]}.items():
        assert all(isinstance(record[f"{prefix}/{name}"], float) for name in names)
    assert {"test/loss", "test/hit1", "test/perr", "test/gap", "test/map"} <= record.keys()
    assert record["params"] == 62_448
    assert (record["epochs"], record["batch_size"], record["lr"]) == (2, 16, 0.001)
    assert record["videos_per_second"] > 0
    assert record["seconds"] > 0
    assert record["skipped_records"] == 0
    for figure in ("cpu_percent", "memory_gib", "gpu_percent", "gpu_memory_gib"):
        assert {f"{figure}_mean", f"{figure}_peak"} <= record.keys()
    assert record["versions"]["torch"] == torch.__version__


def test_a_checkpoint_loads_without_unpickling_code_and_carries_the_configuration(run):
    from yt8m.module import VideoClassifier

    folder, _ = run
    path = folder / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    saved = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert content["hyper_parameters"]["config"]["model"] == OmegaConf.to_container(saved.model)
    classifier = VideoClassifier.load_from_checkpoint(path, weights_only=True)
    assert type(classifier.model).__name__ == "NNStreamLSTM"


def test_evaluation_repeats_the_runs_metrics(run, tmp_path, tiny_sample):
    folder, record = run
    run_command(
        "eval", f"ckpt_path={folder}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}", "trainer=cpu"
    )
    again = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("loss", "hit1", "perr", "gap", "map"):
        assert again[f"val/{name}"] == pytest.approx(record[f"last/val/{name}"], abs=1e-6)


def test_same_seed_same_run_and_another_seed_another(tmp_path, tiny_sample, run):
    _, record = run
    again = train(tmp_path / "again", *TINY, *tiny_sample, "dataset.num_workers=2")
    other = train(tmp_path / "other", *TINY, *tiny_sample, "seed=1")
    assert again["val/loss"] == record["val/loss"]
    assert again["train/loss"] == record["train/loss"]
    assert other["train/loss"] != record["train/loss"]


def best_and_last(tmp_path, tiny_sample, *overrides):
    """A run whose second epoch is worse than its first: the learning rate explodes in between."""
    return train(
        *(
            tmp_path,
            "model=nn",
            "model.hidden_sizes=[16]",
            "trainer=cpu",
            "dataset.num_workers=0",
            *tiny_sample,
        ),
        *("dataset.batch_size=16", "gradient_clip=null", "optimizer=sgd", "optimizer.lr=0.01", *overrides),
        *(
            "scheduler=exponential",
            "scheduler.decay=10000",
            "scheduler.every_examples=112",
            "trainer.max_epochs=2",
        ),
    )


def test_metrics_tell_the_best_checkpoint_from_the_last(tmp_path, tiny_sample, capsys):
    folder = tmp_path / "run"
    record = best_and_last(folder, tiny_sample, "optimized_metric=val/loss")
    header = next(line for line in capsys.readouterr().out.splitlines() if "best" in line)
    assert re.search(r"validate, best \(epoch 1\) +validate, last \(epoch 2\) +test +train", header)
    assert (record["best_epoch"], record["epochs"]) == (1, 2)
    with (folder / "csv" / "version_0" / "metrics.csv").open() as file:
        first, second = (row for row in csv.DictReader(file) if row["val/gap"])
    assert float(first["val/loss"]) < float(second["val/loss"]), "this test needs a run that gets worse"
    for key in ("loss", "hit1", "perr", "gap", "map"):
        assert record[f"val/{key}"] == pytest.approx(float(first[f"val/{key}"]), rel=1e-6)
        assert record[f"last/val/{key}"] == pytest.approx(float(second[f"val/{key}"]), rel=1e-6)
    # best.ckpt is the checkpoint of the lowest loss, and the test scores are those of best.ckpt.
    for split, ckpt, key in (
        ("validate", "best", "val/"),
        ("test", "best", "test/"),
        ("validate", "last", "last/val/"),
    ):
        run_command(
            *("eval", f"ckpt_path={folder}/checkpoints/{ckpt}.ckpt", f"split={split}", "trainer=cpu"),
            f"hydra.run.dir={tmp_path / 'eval'}",
        )
        again = json.loads((tmp_path / "eval" / "metrics.json").read_text())
        for name in ("loss", "gap"):
            expected = record[f"{key}{name}"]
            assert again[f"{key.removeprefix('last/')}{name}"] == pytest.approx(expected, rel=1e-5), (
                split,
                ckpt,
            )
    # A finished run that is resumed still knows its best epoch.
    again = best_and_last(folder, tiny_sample, "optimized_metric=val/loss", "ckpt_path=last")
    for key in ("best_epoch", "val/loss", "last/val/loss", "test/loss", "train/loss"):
        assert again[key] == pytest.approx(record[key], rel=1e-6), key


def test_a_sweep_gets_the_best_value(tmp_path, tiny_sample, monkeypatch):
    from yt8m.train import run

    returned = []
    task = run.train
    monkeypatch.setattr(run, "train", lambda config: returned.append(task(config)) or returned[-1])
    record = best_and_last(tmp_path, tiny_sample, "optimized_metric=val/loss", "test=false")
    assert returned == [record["val/loss"]]
    assert record["val/loss"] < record["last/val/loss"]


def test_epochs_differ_in_order(tmp_path, tiny_sample, monkeypatch):
    from yt8m.module import VideoClassifier

    seen = {}
    step = VideoClassifier.training_step

    def training_step(self, batch, batch_idx):
        seen.setdefault(self.current_epoch, []).extend(batch.ids)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(VideoClassifier, "training_step", training_step)
    train(tmp_path, *TINY, *tiny_sample, "test=false")
    assert len(seen[0]) == len(seen[1]) == 100
    assert seen[0] != seen[1]
    assert sorted(seen[0]) == sorted(seen[1])


def test_mistakes_end_in_one_line_and_the_right_exit_code(tmp_path, tiny_sample, capfd, monkeypatch):
    wrong_call, failed = 2, 1
    cases = [
        (
            ["dataset=yt8m_frame", "dataset.root=absent"],
            (wrong_call, r"dataset\.root: expected the dataset's folder, found nothing at absent"),
        ),
        (
            ["dataset=yt8m_frame", "dataset.root=."],
            (wrong_call, r"dataset\.train: expected shards at 2/frame/train/\*\.tfrecord"),
        ),
        (
            ["dataset.features.rgb=1000"],
            (failed, r"tfrecord @ byte 0: expected 1000 bytes per frame of rgb, found 1024"),
        ),
        (
            ["+dataset.features.flow=64"],
            (failed, r"tfrecord @ byte 0: expected flow .*found keys audio, id, labels, rgb"),
        ),
        (["dataset.batch_size=0"], (wrong_call, r"dataset\.batch_size: expected a whole number from 1")),
        (
            ["dataset.level=scene"],
            (wrong_call, r"dataset\.level: expected frame, video or segment.*, found 'scene'"),
        ),
        (["+model.hiden=1"], (wrong_call, r"unexpected keyword argument 'hiden'")),
        (
            ["optimizer.weight_decay=-1"],
            (wrong_call, r"weight_decay: expected a number, 0 or more, found -1"),
        ),
        (
            ["weight_decay={clasifier: 1e-8}"],
            (wrong_call, r"weight_decay\.clasifier: expected .*; did you mean classifier\?"),
        ),
        (["optimizer.lr=-1"], (wrong_call, r"optimizer\.lr: expected a number above 0, found -1")),
        (
            ["ckpt_path=last"],
            (
                wrong_call,
                r"ckpt_path: expected a checkpoint, found nothing at .*last\.ckpt; set hydra\.run\.dir",
            ),
        ),
        (["normalize=l3"], (wrong_call, r"normalize: expected none or l2, found 'l3'")),
        (
            ["gradient_clip.per=layer"],
            (wrong_call, r"gradient_clip\.per: expected variable or global, found 'layer'"),
        ),
        (
            ["trainer=gpu", "+trainer.limit_val_batches=2"],
            (wrong_call, r"No supported gpu backend found"),
        ),
        (["seed=null"], (wrong_call, r"seed: expected a whole number from 0 .*found nothing")),
        (
            ["optimized_metric=val/map5"],
            (wrong_call, r"optimized_metric: expected .*val/gap.*, found 'val/map5'"),
        ),
        (
            ["scheduler=cosine", "trainer.max_epochs=-1"],
            (wrong_call, r"scheduler: cosine needs the number of steps, .*; set trainer\.max_epochs or"),
        ),
    ]
    monkeypatch.chdir(tmp_path)
    for overrides, (code, says) in cases:
        sample = [] if overrides[0].startswith("dataset=") else tiny_sample
        model = [] if any("model=" in o for o in overrides) else ["model=nn", "model.hidden_sizes=[8]"]
        if overrides[0].startswith("trainer="):
            model += ["logger=none"]
        with pytest.raises(SystemExit) as ended:
            run_command(
                *("train", *model, "trainer=cpu", "trainer.max_epochs=1", "hydra.run.dir=run"),
                *(*sample, *overrides),
            )
        out, err = capfd.readouterr()
        assert ended.value.code == code, (overrides, err)
        assert "Traceback" not in out + err, overrides
        assert len([line for line in err.splitlines() if re.search(says, line)]) == 1, (overrides, err)


def test_a_label_outside_the_classes_is_told_before_training(tmp_path, tiny_sample, capfd):
    folder = ["dataset=yt8m_frame", tiny_sample[0], "dataset.train=train/*", "dataset.validate=validate/*"]
    with pytest.raises(SystemExit):
        run_command("train", "model=nn", *folder, "dataset.num_classes=20", f"hydra.run.dir={tmp_path}")
    assert "expected labels in 0..19, found" in capfd.readouterr().err


def test_real_video_level_shards(tmp_path, shared_data):
    record = train(
        tmp_path,
        "model=nn",
        "dataset=yt8m_video",
        f"dataset.root={shared_data / 'yt8m'}",
        "dataset.train=2/video/train/train000?.tfrecord",
        "dataset.validate=2/video/validate/validate0000.tfrecord",
        "model.hidden_sizes=[256]",
        "trainer=cpu",
        "trainer.max_epochs=3",
        "dataset.batch_size=64",
        "optimizer.lr=0.003",
    )
    # Guessing by class frequency gives 0.05.
    assert record["val/gap"] > 0.2
    assert record["val/hit1"] > 0.35


def test_real_frame_level_shards_with_one_stream(tmp_path, shared_data):
    record = train(
        tmp_path,
        "model=stream_lstm",
        "model.width=0.125",
        "dataset=audioset",
        f"dataset.root={shared_data / 'audioset'}",
        "dataset.train=bal_train/shard-00-*.tfrecord",
        "trainer=cpu",
        "trainer.max_epochs=1",
    )
    assert record["val/gap"] > 0
    assert record["params"] < 1_000_000


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        run_command(
            "train", "model=nn", "dataset=yt8m_video", "dataset.root=~/videos", f"hydra.run.dir={tmp_path}/r"
        )
    assert f"found nothing at {tmp_path}/videos" in capfd.readouterr().err


def test_a_large_network_on_a_cpu_comes_with_a_hint(tmp_path, tiny_sample, monkeypatch, capfd):
    monkeypatch.setattr("yt8m.train.run.SLOW_ON_A_CPU", 1000)
    train(tmp_path / "large", *TINY, *tiny_sample, "debug=fast")
    assert "model.width=0.125 narrows it" in capfd.readouterr().err
    monkeypatch.undo()
    train(tmp_path / "small", *TINY, *tiny_sample, "debug=fast")
    assert "model.width" not in capfd.readouterr().err
