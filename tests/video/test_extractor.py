"""From videos that the test encodes to features: alignment, determinism, the formulas, and odd files."""

import shutil
import struct
import threading

import av
import numpy as np
import pytest
import torch

from tests.video.files import INCEPTION
from tests.video.videos import color, encode, seconds, tone
from yt8m.errors import ConfigError, DataError
from yt8m.video.extractor import FeatureExtractor
from yt8m.video.projection import Projection, quantize
from yt8m.video.sound import log_mel
from yt8m.video.source import Source


@pytest.fixture(scope="module")
def extractor(feature_weights):
    return FeatureExtractor.load(feature_weights, device="cpu")


def colors(path, max_frames=300):
    """The second whose color each frame has, and the sound."""
    source = Source(path, max_frames)
    found = []
    for frame in source:
        distances = [np.abs(frame.mean(axis=(0, 1)) - color(second)).max() for second in range(27)]
        found.append(int(np.argmin(distances)))
        assert min(distances) < 15
    return found, source


def test_frame_t_and_audio_t_are_of_second_t(tmp_path):
    found, source = colors(encode(tmp_path / "a.mp4", seconds(6), sound=6))
    assert found == [*range(6)]
    # The loudest frequency of the 0.975 s from second t is the tone of second t.
    for second in range(5):
        part = source.samples[second * 16_000 :][:15_600]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        assert np.argmax(spectrum) / 0.975 == pytest.approx(tone(second), abs=3), second
    assert len(source.samples) == pytest.approx(6 * 16_000, abs=1024)
    assert source.notes == []


def test_times_decide_not_counts(tmp_path):
    """Variable rates, a first picture or a sound that starts late, NTSC's rate, a container that starts at 10 s."""
    slides = [0.0, 0.2, 3.0, 3.1, 7.0]
    assert colors(encode(tmp_path / "slides.mp4", slides))[0][:8] == [0, 0, 0, 3, 3, 3, 3, 7]
    assert colors(encode(tmp_path / "slow.mp4", seconds(6, rate=0.5)))[0][:5] == [0, 0, 2, 2, 4]
    ntsc = [number * 1001 / 30000 for number in range(150)]
    assert colors(encode(tmp_path / "ntsc.mp4", ntsc))[0] == [0, 1, 2, 3, 4, 4]
    hours = encode(tmp_path / "hours.mp4", [0, 5, 120, 7200, 36_000])  # ten of them
    found, source = colors(hours, max_frames=7)
    assert found == [0] * 5 + [5] * 2
    assert source.notes == ["long: the first 7 of 36,000 s were read"]
    _, source = colors(encode(tmp_path / "late.mkv", seconds(4), sound=2, sound_from=1.5))
    loud = np.abs(source.samples)
    assert loud[: int(1.4 * 16_000)].max() < 1e-3 < loud[int(1.6 * 16_000) : 2 * 16_000].max()
    shifted = encode(tmp_path / "shifted.mkv", [10 + time for time in seconds(3)], sound=3, sound_from=10.0)
    assert colors(shifted)[0] == [10, 11, 12]


def test_pictures_stand_upright(tmp_path):
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24] = (200, 30, 30)  # the upper half is red
    turned = encode(
        tmp_path / "turned.mp4", [0.0], pictures=[np.rot90(image, -1).copy()], size=(48, 64), rotation=90
    )
    (frame,) = Source(turned, 5)
    assert frame[:140, ..., 0].min() > 150 > 60 > frame[160:, ..., 0].max()


def test_features_are_the_formulas_in_numpy(extractor, feature_weights, tmp_path):
    path = encode(tmp_path / "a.mp4", seconds(3), sound=3)
    features, source = extractor(path), Source(path, 300)
    images = torch.from_numpy(np.stack([*source]))
    with torch.inference_mode():
        pooled = extractor.networks["rgb"].network(images).numpy().astype(np.float64)
    mean, vectors, values = (
        np.load(feature_weights / f"{name}.npy") for name in ("mean", "eigenvecs", "eigenvals")
    )
    whitened = (pooled - mean[:, 0]) @ vectors.T[:, :1024] / np.sqrt(values[:1024, 0] + 1e-4)
    expected = np.array(
        [[round((min(max(x, -2), 2) + 2) * 255 / 4) for x in row] for row in whitened.tolist()]
    )
    assert np.abs(features.frames["rgb"].astype(int) - expected).max() <= 1  # at a rounding boundary
    assert np.mean(features.frames["rgb"] == expected) > 0.999
    dequantized = features.frames["rgb"] * (4 / 255) + (4 / 512 - 2)
    np.testing.assert_allclose(features.means["rgb"], dequantized.mean(axis=0), atol=1e-5)

    padded = np.pad(source.samples, (0, 16_000))
    examples = np.concatenate([log_mel(padded[None, 16_000 * t : 16_000 * t + 15_600]) for t in range(3)])
    with torch.inference_mode():
        embedded = extractor.networks["audio"].network(torch.from_numpy(examples)).numpy()
    with np.load(feature_weights / "vggish_pca_params.npz") as pca:
        audio = (pca["pca_eigen_vectors"] @ (embedded.T - pca["pca_means"])).T
    expected = np.rint((np.clip(audio, -2, 2) + 2) * 63.75)
    assert np.abs(features.frames["audio"].astype(int) - expected).max() <= 1
    # Neither is constant or saturated, so that the comparison means something.
    for frames in features.frames.values():
        assert frames.std(axis=0).mean() > 2
        assert np.mean((frames == 0) | (frames == 255)) < 0.5
    assert features.array.shape == (3, 1152)
    assert np.array_equal(features.array[:, :1024], features.frames["rgb"])


def test_quantizer():
    values = np.array([-5, -2, -1.9999, 0, 0.00784, 0.0079, 1.99, 2, 7], np.float32)
    assert quantize(values).tolist() == [round((min(max(v, -2), 2) + 2) * 255 / 4) for v in values.tolist()]
    rng = np.random.default_rng(0)
    mean, vectors, variances = rng.normal(size=5), rng.normal(size=(3, 5)), rng.uniform(size=3)
    x = rng.normal(size=(4, 5))
    expected = [[(row - mean) @ vectors[i] / np.sqrt(variances[i] + 1e-4) for i in range(3)] for row in x]
    np.testing.assert_allclose(Projection.whitening(mean, vectors, variances)(x), expected, rtol=1e-5)


def test_features_depend_on_the_file_alone(extractor, tmp_path):
    """The same again, in other threads at once, and after other videos."""
    paths = [encode(tmp_path / f"{n}.mp4", seconds(3 + n), sound=3) for n in range(2)]
    first = [extractor(path).array for path in paths]
    again = [None] * 2

    def run(number):
        again[number] = extractor(paths[number]).array

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.array_equal(extractor(paths[1], max_frames=2).array, first[1][:2])  # a longer video's beginning


def test_odd_videos_have_features_and_a_note(extractor, tmp_path):
    silent = extractor(encode(tmp_path / "silent.mp4", seconds(2)))
    quiet = log_mel(np.zeros((1, 15_600), np.float32))
    with torch.inference_mode():
        values = extractor.networks["audio"].network(torch.from_numpy(quiet)).numpy()
    expected = quantize(extractor.networks["audio"].projection(values))
    assert np.abs(silent.frames["audio"].astype(int) - expected).max() <= 1
    assert silent.notes == ("no sound: audio features of silence",)
    assert len(extractor(encode(tmp_path / "one.mp4", [0.0]))) == 1
    # Two seconds whose header promises ten hours.
    promising = encode(tmp_path / "promising.mkv", seconds(2), sound=2)
    content = bytearray(promising.read_bytes())
    at = content.index(b"\x44\x89\x88") + 3  # the element Duration, a float64 in milliseconds
    content[at : at + 8] = struct.pack(">d", 36_000_000)
    promising.write_bytes(content)
    found = extractor(promising)
    assert (len(found), found.notes) == (2, ("its pictures end after 2 of 36,000 s",))
    # A stream without an index, of which a middle part is overwritten.
    damaged = encode(tmp_path / "damaged.ts", seconds(6), codec="mpeg4")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    damaged.write_bytes(content)
    assert 1 <= len(extractor(damaged)) <= 6


def test_files_that_are_no_videos_are_one_line(extractor, tmp_path):
    good = encode(tmp_path / "good.mp4", seconds(2), sound=2)
    cases = {
        "text.mp4": (b"not a video\n", "expected a video, found none that FFmpeg can open"),
        "empty.mp4": (b"", "expected a video, found none that FFmpeg can open"),
        "cut.mp4": (good.read_bytes()[:1500], "expected a video, found none that FFmpeg can open"),
        # Playlists would open other files and addresses.
        "list.m3u8": (f"#EXTM3U\n#EXTINF:2,\n{good}\n#EXT-X-ENDLIST\n".encode(), "FFmpeg can open"),
        "list.ffconcat": (f"ffconcat version 1.0\nfile {good}\n".encode(), "FFmpeg can open"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            extractor(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(error.value)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
    with pytest.raises(DataError, match="expected a video, found only audio"):
        extractor(tmp_path / "sound.wav")
    for absent in ("absent.mp4", "http://localhost/a.mp4"):
        with pytest.raises(DataError, match="expected a file, found none"):
            extractor(absent)


def test_weights_that_are_missing_or_others_are_refused(feature_weights, tmp_path):
    def refused(match, *, remove=(), **options):
        folder = tmp_path / "weights"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(feature_weights, folder)
        for name in remove:
            (folder / name).unlink()
        for name, content in options.items():
            (folder / name.replace("__", ".")).write_bytes(content)
        with pytest.raises(ConfigError, match=match):
            FeatureExtractor.load(folder)

    pca = ("mean.npy", "eigenvecs.npy", "eigenvals.npy")
    refused(r"^weights: expected the dataset's PCA, .*yt8m_pca\.tgz", remove=pca)
    refused("expected eigenvecs.npy beside the others", remove=["eigenvecs.npy"])
    refused("expected the PCA of VGGish .* or set audio=none", remove=["vggish_pca_params.npz"])
    refused("pytorch-fid", remove=[INCEPTION])
    refused("expected a NumPy file", mean__npy=b"\x80\x04N.")  # a pickle, not executed
    refused("found (inf, )?.*|expected finite", eigenvals__npy=_npy(np.full((1029, 1), np.nan)))
    refused("expected a mean of 128 values", mean__npy=_npy(np.zeros(2048)))
    state = torch.load(feature_weights / INCEPTION)
    for problem, change in {
        "it lacks Mixed_7c.branch_pool.conv.weight": lambda s: s.pop("Mixed_7c.branch_pool.conv.weight"),
        "it has other": lambda s: s.update(other=torch.zeros(1)),
    }.items():
        changed = dict(state)
        change(changed)
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(feature_weights, folder)
        torch.save(changed, folder / INCEPTION)
        with pytest.raises(
            ConfigError, match=f"expected a state dict of Inception in .*, found another: {problem}$"
        ):
            FeatureExtractor.load(folder)


def _npy(array):
    import io

    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()
