"""The PCA in MediaPipe's form: the same matrices as in NumPy's, in another file format."""

import shutil
import struct

import numpy as np
import pytest

from yt8m.errors import ConfigError
from yt8m.video.weights import load_weights

RGB, AUDIO = "inception3", "vggish"


def matrix_data(matrix: np.ndarray, row_major: bool) -> bytes:
    """`mediapipe.MatrixData` as its .proto says: rows = 1, cols = 2, packed floats = 3, layout = 4, row major = 1."""

    def varint(value: int) -> bytes:
        low, high = value & 0x7F, value >> 7
        return bytes([low | 0x80]) + varint(high) if high else bytes([low])

    rows, columns = matrix.shape
    packed = matrix.astype("<f4").tobytes("C" if row_major else "F")
    head = b"\x08" + varint(rows) + b"\x10" + varint(columns) + b"\x1a" + varint(len(packed)) + packed
    return head + (b"\x20\x01" if row_major else b"")


def write_pca(folder, name, mean, projection, row_major=False):
    for part, matrix in (("mean", mean.reshape(-1, 1)), ("projection", projection)):
        path = folder / f"{name}_{part}_matrix_data.pb"
        path.write_bytes(matrix_data(matrix, row_major))


@pytest.mark.parametrize("row_major", [False, True], ids=["column major", "row major"])
def test_mediapipes_matrices_are_numpys(feature_weights, tmp_path, row_major):
    known = load_weights(feature_weights)
    folder = shutil.copytree(feature_weights, tmp_path / "weights")
    for name in ("mean.npy", "eigenvecs.npy", "eigenvals.npy", "vggish_pca_params.npz"):
        (folder / name).unlink()
    for feature, name in (("rgb", RGB), ("audio", AUDIO)):
        projection = known[feature].projection
        write_pca(folder, name, projection.mean, projection.matrix.T, row_major)
    found = load_weights(folder)
    rng = np.random.default_rng(0)
    for feature, network in known.items():
        activations = rng.normal(size=(5, len(network.projection.mean)))
        np.testing.assert_allclose(
            found[feature].projection(activations), network.projection(activations), rtol=1e-4, atol=1e-4
        )
    assert {path.name for path in found["audio"].files} >= {f"{AUDIO}_mean_matrix_data.pb"}


def test_which_form_is_read_where_both_are_there(feature_weights, tmp_path):
    folder = shutil.copytree(feature_weights, tmp_path / "weights")
    channels = {name: len(one.projection.mean) for name, one in load_weights(folder).items()}
    write_pca(folder, RGB, np.zeros(channels["rgb"]), np.zeros((1024, channels["rgb"])))
    write_pca(folder, AUDIO, np.zeros(channels["audio"]), np.zeros((128, channels["audio"])))
    found = load_weights(folder)
    assert found["rgb"].projection.matrix.any()  # NumPy's
    assert not found["audio"].projection.matrix.any()  # MediaPipe's


def test_damaged_matrices_are_refused(feature_weights, tmp_path):
    folder = shutil.copytree(feature_weights, tmp_path / "weights")
    mean, projection = (folder / f"{AUDIO}_{part}_matrix_data.pb" for part in ("mean", "projection"))
    mean.write_bytes(matrix_data(np.zeros((128, 1)), False))

    def refused(message):
        with pytest.raises(ConfigError, match=message):
            load_weights(folder)

    refused(f"^weights: expected {projection.name} beside the others in {folder}, found none$")
    whole = matrix_data(np.zeros((128, 128)), False)
    for content, problem in {
        whole[:-7]: "found: .*",
        b"": "found: 0 numbers in a matrix of 0 by 0",
        b"\x08\x02\x10\x02\x1a\x04" + struct.pack("<f", 1): "found: 1 numbers in a matrix of 2 by 2",
    }.items():
        projection.write_bytes(content)
        refused(f"^weights: expected MediaPipe's matrices in {mean} and {projection.name}, {problem}")
    projection.write_bytes(matrix_data(np.zeros((127, 128)), False))
    refused("expected a mean of 128 values and a matrix of 128 by 128 .*found .* and \\(128, 127\\)")
