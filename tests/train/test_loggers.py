"""What the loggers write to the disk, read back."""

import csv
import warnings
from collections import defaultdict
from pathlib import Path

import pytest

from tests.agent.wandb_records import read_records
from tests.training import TINY, run_command, train

ONCE = ("trainer.max_epochs=1", "trainer.log_every_n_steps=1")
OFFLINE = ("logger.wandb.offline=true",)


@pytest.fixture(autouse=True)
def wandb_in_tmp_path(tmp_path, monkeypatch):
    """W&B's caches apart from the user's, and no address or key to send anything to."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")


def wandb_run(folder):
    """The records of the one W&B run in an output folder, by kind."""
    (run,) = folder.glob("wandb/offline-run-*")
    kinds = defaultdict(list)
    for record in read_records(run):
        kind = record.WhichOneof("record_type")
        kinds[kind].append(getattr(record, kind))
    return kinds


def config_of(records):
    return {item.key: item.value_json for record in records["config"] for item in record.update}


def logged(records):
    return {item.key or item.nested_key[0] for record in records["history"] for item in record.item}


def test_wandb_gets_name_settings_code_curves_and_best_values(tmp_path, tiny_sample):
    metrics = train(tmp_path / "run", *TINY, *tiny_sample, *ONCE, "logger=wandb", *OFFLINE)
    assert not (tmp_path / "run" / "csv").exists()
    records = wandb_run(tmp_path / "run")
    config = config_of(records)
    assert config["optimizer.lr"] == "0.001"
    assert config["model.mlp_sizes.rgb"] == "[16]"
    assert config["git_commit"] == (f'"{metrics["git_commit"]}"' if metrics["git_commit"] else "null")
    assert config["params"] == str(metrics["params"])
    assert {"train/loss", "val/gap", "test/gap", "lr", "videos_per_second", "best/val/gap"} <= logged(records)
    (run,) = records["run"]
    assert run.display_name.startswith("model=nn_stream_lstm,")
    assert "trainer.max_epochs=1" in run.display_name
    assert str(tmp_path) not in run.display_name
    assert run.tags == ["nn_stream_lstm", "sample"]
    assert run.run_group == ""
    best = {metric.name: metric.summary for metric in records["metric"]}
    assert best["val/gap"].max
    assert best["val/loss"].min
    assert not any(key.startswith("gradients/") for key in logged(records))
    assert [artifact.type for artifact in records["artifact"]] == ["code"]
    assert any(entry.path == "module.py" for entry in records["artifact"][0].manifest.contents)
    assert [end.exit_code for end in records["exit"]] == [0]


def test_wandb_gets_gradients_and_the_best_checkpoint_when_asked(tmp_path, tiny_sample):
    train(
        *(tmp_path / "run", *TINY, *tiny_sample, *ONCE, "logger=[csv,wandb]", *OFFLINE),
        *("logger.wandb.gradients_every=2", "logger.wandb.log_model=true"),
    )
    assert list(tmp_path.glob("run/csv/*/metrics.csv"))
    records = wandb_run(tmp_path / "run")
    assert "gradients/classifier.weight" in logged(records)
    (model,) = [artifact for artifact in records["artifact"] if artifact.type == "model"]
    (entry,) = model.manifest.contents
    assert entry.size == (tmp_path / "run" / "checkpoints" / "best.ckpt").stat().st_size
    assert set(model.aliases) == {"latest", "best"}


def test_every_job_of_a_multirun_is_a_wandb_run_of_its_own_also_one_that_fails(tmp_path, tiny_sample):
    with pytest.raises(SystemExit):
        run_command(
            *(
                "train",
                "-m",
                f"hydra.sweep.dir={tmp_path}",
                *TINY,
                *tiny_sample,
                *ONCE,
                "logger=wandb",
                *OFFLINE,
            ),
            *("test=false", "+trainer.limit_val_batches=1", "optimizer.lr=1e-3,1e30,2e-3"),
        )
    ids, codes = [], []
    for number in range(3):
        (folder,) = tmp_path.glob(f"{number}_*")
        if list(folder.glob("wandb/*")):
            records = wandb_run(folder)
            ids.append(records["run"][0].run_id)
            assert records["run"][0].run_group == tmp_path.name
            codes.append(records["exit"][0].exit_code)
    assert len(set(ids)) == len(ids)
    assert codes == [0, 1, 0]


def test_a_resumed_run_continues_its_wandb_run(tmp_path, tiny_sample):
    common = (*TINY, *tiny_sample, *ONCE, "logger=wandb", *OFFLINE)
    train(tmp_path / "run", *common)
    train(tmp_path / "run", *common, "ckpt_path=last", "trainer.max_epochs=2")
    train(tmp_path / "other", *common)
    first, second = (path.name.split("-")[-1] for path in sorted(tmp_path.glob("run/wandb/offline-run-*")))
    assert first == second
    assert wandb_run(tmp_path / "other")["run"][0].run_id != first


def test_tensorboard_shows_graph_curves_histograms_and_frames(tmp_path, tiny_sample):
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    train(
        *(tmp_path / "run", *TINY, *tiny_sample, *ONCE),
        *("logger=tensorboard", "callbacks=tensorboard_pictures"),
    )
    events = EventAccumulator(
        str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0, "tensors": 0}
    )
    events.Reload()
    assert any("BidirectionalLSTM" in node.name for node in events.Graph().node)
    assert {"train/loss", "val/gap"} <= set(events.Tags()["scalars"])
    names = set(events.Tags()["histograms"])
    assert {"weights/model.classifier.weight", "gradients/model.classifier.weight"} <= names

    # Rows of a curve: true positives, false positives, true negatives, false negatives, ... per threshold.
    tags = set(events.Tags()["tensors"])
    names = {
        row["Index"]: row["Name"] for row in csv.DictReader(_vocabulary(tiny_sample).read_text().splitlines())
    }
    classes = {tag.removeprefix("pr_curve/") for tag in tags if tag.startswith("pr_curve/")} - {"all"}
    assert len(classes) == 5
    assert all(names[name.partition(" ")[0]] == name.partition(" ")[2] for name in classes)
    curve = make_ndarray(events.Tensors("pr_curve/all")[0].tensor_proto)
    assert curve[:4].sum(axis=0).tolist() == [30 * 40] * curve.shape[1]  # every video with every class
    (picture,) = events.Images("frames")
    (tmp_path / "frames.png").write_bytes(picture.encoded_image_string)
    with Image.open(tmp_path / "frames.png") as image:
        assert image.height == 1024 + 128
        assert image.width >= image.height / 4


def test_tensorboard_has_hparams_with_the_best_value(tmp_path, tiny_sample):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    record = train(tmp_path / "run", *TINY, *tiny_sample, "logger=tensorboard", "test=false")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    content = events.PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["optimizer.lr"].number_value == 0.001
    assert start.hparams["params"].number_value == record["params"]
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    assert [info.name.tag for info in experiment.metric_infos] == ["best/val/gap"]
    assert events.Scalars("best/val/gap")[-1].value == pytest.approx(record["val/gap"])


def test_mlflow_continues_its_run(tmp_path, tiny_sample, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the extra `mlflow`")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    common = (*TINY, *tiny_sample, *ONCE, "logger=mlflow", "test=false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own
        first = train(tmp_path / "run", *common)
        again = train(tmp_path / "run", *common, "ckpt_path=last", "trainer.max_epochs=2")
        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        experiment = client.get_experiment_by_name("yt8m")
        (run,) = client.search_runs([experiment.experiment_id])
        gaps = [metric.value for metric in client.get_metric_history(run.info.run_id, "val/gap")]
    assert run.info.run_name.startswith("model=nn_stream_lstm,")
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.params["params"] == str(first["params"])
    assert gaps == pytest.approx([first["last/val/gap"], again["last/val/gap"]])
    assert run.data.metrics["best/val/gap"] == pytest.approx(again["val/gap"])
    assert run.data.tags["model"] == "nn_stream_lstm"


def test_a_missing_extra_is_one_line_with_the_pip_command(tmp_path, tiny_sample, monkeypatch, capfd):
    monkeypatch.setattr("yt8m.errors.is_installed", lambda package: False)
    for extra in ("wandb", "tensorboard", "mlflow"):
        with pytest.raises(SystemExit) as ended:
            run_command("train", f"hydra.run.dir={tmp_path}", *TINY, *tiny_sample, f"logger={extra}")
        assert ended.value.code == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
        assert errors == [
            f"error: logger={extra}: expected the package {extra}, found none; pip install 'yt8m[{extra}]'"
        ]


def test_a_run_is_named_by_what_it_sets(monkeypatch):
    from types import SimpleNamespace

    from hydra.core.hydra_config import HydraConfig

    from yt8m.train.loggers import job_name

    def named(*overrides):
        hydra = SimpleNamespace(
            overrides=SimpleNamespace(task=list(overrides)),
            runtime=SimpleNamespace(choices={"model": "nn", "dataset": "sample"}),
        )
        monkeypatch.setattr(HydraConfig, "get", staticmethod(lambda: hydra))
        monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: True))
        return job_name()

    assert named() == named("logger=wandb", "dataset.root=/data", "ckpt_path=last") == "nn_sample"
    assert named("model=nn", "optimizer.lr=0.1", "logger=[csv,wandb]") == "model=nn,optimizer.lr=0.1"
    assert named("seed=1", f"dataset.train={'x' * 150}") == "seed=1"


def _vocabulary(tiny_sample):
    return Path(tiny_sample[0].removeprefix("dataset.root="), "vocabulary.csv")


def test_heat_map_runs_from_blue_over_white_to_red():
    import torch

    from yt8m.train.tensorboard import heat_map

    image = heat_map(torch.tensor([[0.0, 127.5, 255.0], [255.0, 0.0, 0.0]]))
    assert image.shape == (3, 2, 3)
    low, middle, high = image[:, 0]
    assert low[2] > low[0]
    assert torch.allclose(middle, torch.ones(3))
    assert high[0] > high[2]
    assert torch.equal(image[0, 1], high)
