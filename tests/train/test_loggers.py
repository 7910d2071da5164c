"""What the loggers leave on the disk, read back."""

from collections import defaultdict

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


def test_wandb_alone_gets_config_commit_code_and_curves(tmp_path, tiny_sample):
    metrics = train(tmp_path / "run", *TINY, *tiny_sample, *ONCE, "logger=wandb", *OFFLINE)
    assert not (tmp_path / "run" / "csv").exists()
    records = wandb_run(tmp_path / "run")
    config = config_of(records)
    assert config["optimizer.lr"] == "0.001"
    assert config["model.mlp_sizes.rgb"] == "[16]"
    assert config["git_commit"] == (f'"{metrics["git_commit"]}"' if metrics["git_commit"] else "null")
    assert {"train/loss", "val/gap", "test/gap"} <= logged(records)
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
            *("test=false", "+trainer.limit_val_batches=1", "dataset.id_key=id,nothing,id"),
        )
    ids, codes = [], []
    for number in range(3):
        (folder,) = tmp_path.glob(f"{number}_*")
        if list(folder.glob("wandb/*")):
            records = wandb_run(folder)
            ids.append(records["run"][0].run_id)
            codes.append(records["exit"][0].exit_code)
    assert len(set(ids)) == len(ids)
    assert codes == [0, 1, 0]


def test_a_resumed_run_goes_on_in_its_wandb_run(tmp_path, tiny_sample):
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
    curve = make_ndarray(events.Tensors("pr_curve/all")[0].tensor_proto)
    assert curve[:4].sum(axis=0).tolist() == [30 * 40] * curve.shape[1]  # every video with every class
    (picture,) = events.Images("frames")
    (tmp_path / "frames.png").write_bytes(picture.encoded_image_string)
    with Image.open(tmp_path / "frames.png") as image:
        assert image.height == 1024 + 128
        assert image.width >= image.height / 4


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
