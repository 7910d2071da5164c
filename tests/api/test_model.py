"""`yt8m.load`: predictions of arrays, records, and shards against the network itself."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import yt8m
from yt8m.datamodules.quantization import dequantize
from yt8m.errors import ConfigError, DataError

TEST = "test/*.tfrecord"


@pytest.fixture(scope="module")
def model(tiny_run) -> yt8m.Model:
    return yt8m.load(tiny_run / "checkpoints" / "best.ckpt", device="cpu")


@pytest.fixture(scope="module")
def root(tiny_sample) -> Path:
    return Path(tiny_sample[0].partition("=")[2])


def by_hand(model: yt8m.Model, frames: np.ndarray) -> np.ndarray:
    """Probabilities of one video, from the definition of the inputs."""
    values = dequantize(torch.from_numpy(frames))[None]
    with torch.no_grad():
        return model.module.model(values.mean(1), values, torch.tensor([len(frames)])).sigmoid()[0].numpy()


def test_arrays_of_any_kind_agree_with_the_network(model, root):
    records = yt8m.open(root / "test")[:5]
    frames = [np.concatenate([*record.features.values()], axis=1) for record in records]
    expected = np.stack([by_hand(model, one) for one in frames])
    floats = [dequantize(torch.from_numpy(one)) for one in frames]
    forms = (
        frames,
        [torch.from_numpy(one) for one in frames],
        records,
        [frames[0], *floats[1:]],
        iter(frames),
    )
    for form in forms:
        np.testing.assert_allclose(model.scores(form, batch_size=2), expected, atol=1e-6)
    one = model.predict(frames[3])
    best = np.argsort(-expected[3], kind="stable")[:20]
    assert one.classes.tolist() == best.tolist()
    np.testing.assert_allclose(one.scores, expected[3][best], atol=1e-6)
    assert one.names == [model.classes[c].name for c in best]
    assert one.genres
    assert set(one.genres) <= set(model.genres)
    assert (one.genre_scores[:-1] >= one.genre_scores[1:]).all()
    assert [p.id for p in model.predict(records)] == [record.id for record in records]
    assert len(model.predict(frames[0], top_k=None).classes) == len(model.classes)


def test_shards_predict_as_their_records_do(model, root):
    records = list(yt8m.open(root / TEST))
    of_files, of_records = model.predict(root / TEST, batch_size=7), model.predict(records)
    assert of_files.ids == of_records.ids == [record.id for record in records]
    assert len(set(of_files.ids)) == 20
    for a, b in zip(of_files, of_records, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
    table = of_files.to_pandas()
    assert list(table.columns) == ["id", "class", "name", "score", "genre"]
    assert len(table) == sum(len(one.classes) for one in of_files)
    first = of_files[0].to_pandas()
    assert table[table["id"] == of_files[0].id]["name"].tolist() == first["name"].tolist()
    assert of_files[:0].to_pandas().empty


def test_a_timeline_scores_each_window_alone(model, root):
    record = yt8m.open(root / TEST)[0]
    frames = np.concatenate([*record.features.values()], axis=1)
    line = model.timeline(record, seconds=4, top_k=3)
    windows = [frames[begin : begin + 4] for begin in range(0, len(frames), 4)]
    expected = np.stack([by_hand(model, window) for window in windows])
    assert line.starts.tolist() == [4.0 * number for number in range(len(windows))]
    assert line.classes.tolist() == np.argsort(-expected.max(0), kind="stable")[:3].tolist()
    np.testing.assert_allclose(line.scores, expected[:, line.classes], atol=1e-6)
    assert line.to_pandas().shape == (len(windows), 3)


def test_a_module_in_training_predicts_in_evaluation_and_trains_on(model, root):
    record = yt8m.open(root / TEST)[0]
    before = model.predict(record).scores
    model.module.train()
    model.module.model.eval()
    kept = [part.training for part in model.module.modules()]
    assert (model.predict(record).scores == before).all()
    assert [part.training for part in model.module.modules()] == kept
    model.module.eval()


def test_wrong_input_is_named(model, root, tmp_path):
    size = sum(model.feature_sizes.values())
    frames = np.zeros((4, size), np.uint8)
    audio = yt8m.Record("x", {"audio": np.zeros((4, 128), np.uint8)}, None)
    cases = {
        "expected one video [T, 1152] (rgb 1024, audio 128), found [4, 128]": np.zeros((4, 128), np.uint8),
        "found [2, 4, 1152]; pass several videos as a list": np.stack([frames, frames]),
        "found [0, 1152]": frames[:0],
        "expected uint8, or dequantized floats, found int64": frames.astype(np.int64),
        "expected uint8, or dequantized floats, found object": frames.astype(object),
        "found NaN or infinity": np.full((4, size), np.nan, np.float32),
        "features[1]: expected one video": [frames, frames[0]],
        "features[0]: expected an array or a record, found str": ["x", "y"],
        "expected features rgb, audio, found audio in record x": audio,
        "found none at": str(tmp_path / "*.tfrecord"),
        "expected the folder of weights that extract features from my.MP4": "my.MP4",
    }
    for message, features in cases.items():
        with pytest.raises(ConfigError) as error:
            model.predict(features)
        assert message in str(error.value), error.value
        assert "\n" not in str(error.value)
    for arguments in ({"top_k": 0}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match="expected a whole number, 1 or more"):
            model.predict([frames], **arguments)


def test_loading_names_what_is_wrong(tiny_run, tmp_path):
    for path, device, message in (
        (
            tiny_run / "checkpoints" / "best.ckpt",
            "tpu9",
            "device: expected a device of this machine, found tpu9",
        ),
        (tmp_path / "none.ckpt", "cpu", "ckpt_path: expected a checkpoint"),
        (Path(__file__), None, "ckpt_path: expected a checkpoint"),
    ):
        with pytest.raises(ConfigError, match=message):
            yt8m.load(path, device=device)


def test_all_frames_reach_models_of_vectors_and_of_segments():
    """Their rows have 1 and 5 frames: a video has more."""
    from yt8m.module import VideoClassifier

    frames = np.random.default_rng(0).integers(0, 256, (12, 6), np.uint8)
    for level, rows in (("video", 1), ("segment", 5)):
        module = VideoClassifier(
            model={"_target_": "yt8m.models.logistic.Logistic"},
            feature_sizes={"rgb": 6},
            num_classes=4,
            loss={"_target_": "yt8m.losses.BCE"},
            optimizer={"_target_": "torch.optim.Adam"},
            level=level,
            max_frames=rows,
            config={"dataset": {"max_frames": 1 if level == "video" else 300}},
        )
        model = yt8m.Model(module)
        parts = [frames] if level == "video" else [frames[:5]]
        timeline = model.timeline(frames, seconds=5, top_k=4)
        assert timeline.starts.tolist() == [0, 5, 10]
        scores = [model.scores([frames])[0]]
        scores += list(timeline.scores[:, np.argsort(timeline.classes)])
        for part, found in zip([*parts, frames[:5], frames[5:10], frames[10:]], scores, strict=True):
            with torch.no_grad():
                mean = dequantize(torch.from_numpy(part)).mean(0)
                expected = module.model(mean[None], None, None).sigmoid()[0].numpy()
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_real_videos(shared_data, tmp_path):
    """A network on real video vectors: arrays, one by one and as shards."""
    from yt8m.module import VideoClassifier

    torch.manual_seed(0)
    module = VideoClassifier(
        model={"_target_": "yt8m.models.logistic.Logistic"},
        feature_sizes={"mean_rgb": 1024, "mean_audio": 128},
        num_classes=3862,
        loss={"_target_": "yt8m.losses.BCE"},
        optimizer={"_target_": "torch.optim.Adam"},
        level="video",
    )
    model = yt8m.Model(module)
    shard = sorted((shared_data / "yt8m/2/video/validate").glob("*.tfrecord"))[0]
    record = yt8m.open(shard)[7]
    vector = np.concatenate([*record.features.values()])
    with torch.no_grad():
        expected = module.model(torch.from_numpy(vector)[None], None, None).sigmoid()[0].numpy()
    for form in (record, vector, np.stack([vector, vector])):
        np.testing.assert_allclose(model.scores([form])[0], expected, atol=1e-6)
    assert model.predict(shard)[7].id == record.id
    with pytest.raises(ConfigError, match="found one vector of the whole video"):
        model.timeline(record)


def test_importing_stays_light():
    code = (
        "import sys, yt8m; yt8m.__all__; dir(yt8m); assert not {'torch', 'numpy', 'pandas'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        yt8m.lod  # noqa: B018
    assert all(getattr(yt8m, name).__doc__ for name in yt8m.__all__)


def test_a_video_file(model, tmp_path):
    """Through real decoding and narrow networks with random weights."""
    pytest.importorskip("av")
    from tests.video.files import write_weights
    from tests.video.videos import encode
    from yt8m.video.extractor import FeatureExtractor

    folder = write_weights(tmp_path / "weights")
    file = encode(tmp_path / "my.mp4", [0, 1, 2], sound=3.0)
    array = FeatureExtractor.load(folder, device="cpu")(file).array
    found = model.predict(file, weights=folder)
    assert found.id == "my.mp4"
    np.testing.assert_allclose(found.scores, model.predict(array).scores, atol=1e-6)
    assert len(model.timeline(model.extract(file, folder), seconds=2).starts) == 2
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"no\.mp4"):
        model.predict(tmp_path / "no.mp4", weights=folder)
    with pytest.raises(ConfigError, match="expected a video file beside weights, found ndarray"):
        model.predict(array, weights=folder)
