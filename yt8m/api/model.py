"""A trained classifier for use in Python: `yt8m.load`."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from yt8m.api.predictions import Prediction, Predictions, Timeline
from yt8m.api.records import OPEN_SHARDS, Record, shard_paths, video_record
from yt8m.checkpoint import checkpoint_file
from yt8m.datamodules.batch import Batch
from yt8m.datamodules.dataset import ShardDataset
from yt8m.datamodules.quantization import as_floats
from yt8m.errors import ConfigError
from yt8m.labels import ClassInfo
from yt8m.module import VideoClassifier
from yt8m.ranking import top_classes

#: One video: frames `[T, D]`, for a model of video vectors also one vector `[D]`; or a record of `yt8m.open`.
#: D = the model's features side by side; uint8 as the dataset stores them, or dequantized floats.
Video = np.ndarray | Tensor | Record

_TOP_GENRES = 5
_USUAL_FRAMES = 300  # of a video in the dataset
_VIDEO_FILES = (
    ".mp4",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".flv",
    ".3gp",
)


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    trusted_packages: Sequence[str] = (),
) -> "Model":
    """The model in a checkpoint of `yt8m.train`. Nothing in the file is executed.

    Args:
        path: the checkpoint, such as `RUN/checkpoints/best.ckpt`; a local file.
        device: where to compute; None takes the GPU if there is one.
        trusted_packages: packages of your own that the checkpoint may name.

    Raises:
        ConfigError: the file is no such checkpoint, is damaged, or the device is none.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    classifier = VideoClassifier.load_from_checkpoint(
        checkpoint_file(path), trusted_packages=trusted_packages
    )
    try:
        classifier.to(chosen)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"device: expected a device of this machine, found {chosen}; {reason}") from None
    return Model(classifier)


class Model:
    """A classifier of videos.

    Attributes:
        module: the `VideoClassifier`, a LightningModule: fine-tune it, or take `module.model`, the bare network.
            `predict` uses its weights as they are at the time.
        classes: index, name, and verticals of each of the C classes.
        genres: names of the genres; empty if none are known.
        feature_sizes: names and sizes of the features, in the order of their columns.
        level: what the model was trained on, `frame`, `segment` or `video`.
        max_frames: frames of a video that are used, as in training; 300 for a model of video vectors, which are means.
    """

    def __init__(self, module: VideoClassifier):
        self.module = module.eval()
        self.classes: list[ClassInfo] = module.classes()
        self.genres: list[str] = list(module.genres.names)
        self.feature_sizes: dict[str, int] = dict(module.hparams["feature_sizes"])
        self.level: str = module.hparams["level"]
        self._dataset: dict[str, Any] = (module.hparams["config"] or {}).get("dataset") or {}
        frames = self._dataset.get("max_frames") or module.hparams["max_frames"]
        self.max_frames: int = _USUAL_FRAMES if self.level == "video" else frames
        self._extractors: dict[str, Any] = {}  # by folder of weights: loading them takes seconds

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.module.device

    @overload
    def predict(  # type: ignore[overload-overlap]  # an array is an Iterable of arrays, too
        self, features: Video, *, top_k: int | None = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self, features: str | os.PathLike[str], *, weights: str | os.PathLike[str], top_k: int | None = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self, features: str | os.PathLike[str], *, top_k: int | None = ..., batch_size: int = ...
    ) -> Predictions: ...
    @overload
    def predict(
        self, features: Iterable[Video], *, top_k: int | None = ..., batch_size: int = ...
    ) -> Predictions: ...
    def predict(
        self,
        features: Video | str | os.PathLike[str] | Iterable[Video],
        *,
        weights: str | os.PathLike[str] | None = None,
        top_k: int | None = 20,
        batch_size: int = 64,
    ) -> Prediction | Predictions:
        """The best classes of one video or several, with names, scores, and genres.

        Args:
            features: one video, NumPy or torch: frames `[T, D]`, uint8 as the dataset stores them or dequantized
                floats, for a model of video vectors also `[D]`; a record of `yt8m.open`; a list of any of these; or a
                path of shards: a file, a folder, or a glob, also at an address such as s3://. With `weights`, a video
                file. Frames beyond the model's `max_frames` are cut.
            weights: folder of the networks that extract features from a video file; see `yt8m.extract`.
            top_k: classes per video; None returns all.
            batch_size: videos computed at a time.

        Returns:
            A `Prediction` for one video, `Predictions` for a list or shards.

        Raises:
            ConfigError: the shape or type does not fit the model, or there are no shards.
            DataError: a record is damaged or does not fit the model, or a file is no video that can be decoded.
        """
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ConfigError(f"top_k: expected a whole number, 1 or more, or None, found {top_k!r}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size: expected a whole number, 1 or more, found {batch_size!r}")
        if weights is not None:
            features = self.extract(_path(features), weights)
        if isinstance(features, np.ndarray | Tensor | Record):
            return self._predict(self._batch([features]), top_k)[0]
        if isinstance(features, str | os.PathLike):
            batches = self._shards(features, batch_size)
        else:
            batches = self._batches(features, batch_size)
        return Predictions([one for batch in batches for one in self._predict(batch, top_k)])

    def extract(self, video: str | os.PathLike[str], weights: str | os.PathLike[str]) -> Record:
        """The features of a video file, as a record that `predict` and `timeline` take.

        The file may come from a stranger: a process of its own decodes it.

        Args:
            video: a file that FFmpeg can decode. Needs PyAV, `pip install 'yt8m[extract]'`.
            weights: folder of the networks; see `yt8m.extract`.

        Raises:
            ConfigError: a file of weights is missing or another one's, or they extract no feature that the model needs.
            DataError: the file holds no video that can be decoded.
        """
        from yt8m.video.extractor import FeatureExtractor

        folder = os.path.abspath(os.path.expanduser(weights))
        if folder not in self._extractors:
            self._extractors[folder] = FeatureExtractor.load(folder, device=self.device)
        found = self._extractors[folder](os.path.expanduser(video), max_frames=self.max_frames)
        return video_record(found, self.feature_sizes, os.path.basename(video))

    def scores(self, videos: Iterable[Video], *, batch_size: int = 64) -> np.ndarray:
        """The probability of each class, float32 `[B, C]`, of a list of videos, as `predict` takes them."""
        parts = [self._scores(batch).cpu().numpy() for batch in self._batches(videos, batch_size)]
        return np.concatenate([np.zeros((0, len(self.classes)), np.float32), *parts])

    def timeline(self, features: Video, *, seconds: int = 5, top_k: int = 10) -> Timeline:
        """Scores over time: each window of frames, at one frame per second, is scored as a video of its own.

        Args:
            features: frames of one video, `[T, D]`, or a record of `yt8m.open`.
            seconds: length of a window; the last one may be shorter.
            top_k: how many classes to keep, those with the highest score in any window.

        Raises:
            ConfigError: the video has no frames, or an argument is wrong.
        """
        for key, value in (("seconds", seconds), ("top_k", top_k)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{key}: expected a whole number, 1 or more, found {value!r}")
        frames = self._frames(features, "features")
        if frames.ndim == 1:
            raise ConfigError(
                "features: expected frames [T, D] for a timeline, found one vector of the whole video"
            )
        scores = torch.from_numpy(self.scores(list(torch.split(frames, seconds))))  # [W, C]
        classes = top_classes(scores.amax(dim=0)[None], min(top_k, scores.shape[1]))[0]
        names = [self.classes[c].name for c in classes.tolist()]
        starts = np.arange(len(scores), dtype=np.float64) * seconds
        return Timeline(starts, classes.numpy(), names, scores[:, classes].numpy())

    def __repr__(self) -> str:
        features = ", ".join(f"{name} {size}" for name, size in self.feature_sizes.items())
        network = type(self.module.model).__name__
        return f"<Model {network}: {len(self.classes):,} classes from {self.level}-level {features}, on {self.device}>"

    def _predict(self, batch: Batch, top_k: int | None) -> list[Prediction]:
        scores = self._scores(batch)
        of_genres = self.module.genre_scores(scores)
        if scores.isnan().any():  # NaN ranks above all numbers
            raise ConfigError("model: expected probabilities, found NaN; look for a diverged training")
        names = [info.name for info in self.classes]
        classes = top_classes(scores, min(top_k or scores.shape[1], scores.shape[1]))
        genres = top_classes(of_genres, min(_TOP_GENRES, of_genres.shape[1]))
        tensors = (classes, scores.gather(1, classes), genres, of_genres.gather(1, genres))
        arrays = [tensor.cpu().numpy() for tensor in tensors]
        return [
            Prediction(name, c, [names[i] for i in c], s, [self.genres[i] for i in g], of_g)
            for name, c, s, g, of_g in zip(batch.ids, *arrays, strict=True)
        ]

    @torch.inference_mode()
    def _scores(self, batch: Batch) -> Tensor:
        """Probabilities, float32 `[B, C]`, on the model's device."""
        if not len(batch):
            return torch.zeros(0, len(self.classes))
        with _evaluating(self.module):
            return self.module.predict_step(batch.to(self.device), 0)

    def _shards(self, path: str | os.PathLike[str], batch_size: int) -> Iterator[Batch]:
        if os.fspath(path).lower().endswith(_VIDEO_FILES):
            raise ConfigError(
                f"features: expected the folder of weights that extract features from {os.fspath(path)}, found none; "
                "set weights"
            )
        dataset = self._dataset
        reader = ShardDataset(
            shard_paths(path, "features"),
            self.feature_sizes,
            int(dataset.get("num_classes") or len(self.classes)),
            level=self.level,
            id_key=dataset.get("id_key", "id"),
            max_frames=self.max_frames,
            dtype=dataset.get("dtype", "uint8"),
            window=OPEN_SHARDS,
        )
        if reader.remote:
            reader.remote.count_all()
        for begin in range(0, len(reader), batch_size):
            yield reader.__getitems__(range(begin, min(begin + batch_size, len(reader))))

    def _batches(self, videos: Iterable[Video], batch_size: int) -> Iterator[Batch]:
        group: list[Video] = []
        first = 0
        for video in videos:
            group.append(video)
            if len(group) == batch_size:
                yield self._batch(group, first)
                first, group = first + len(group), []
        if group:
            yield self._batch(group, first)

    def _batch(self, videos: Sequence[Video], first: int = 0) -> Batch:
        numbers = range(first, first + len(videos))
        ids = [v.id if isinstance(v, Record) else str(n) for n, v in zip(numbers, videos, strict=True)]
        of_one = len(videos) == 1 and not first
        rows = [
            self._frames(v, "features" if of_one else f"features[{n}]")
            for n, v in zip(numbers, videos, strict=True)
        ]
        limits = self.module.hparams["quantization"]
        if self.level == "video":
            floats = [as_floats(row, limits) for row in rows]
            vectors = [row.mean(0) if row.ndim == 2 else row for row in floats]
            return Batch(ids, torch.stack(vectors), torch.ones(len(rows), dtype=torch.int64))
        # Of a segment model, a row is a segment, with its context.
        rows = [row[: self.module.hparams["max_frames"]] for row in rows]
        if len({row.dtype for row in rows}) > 1:
            rows = [as_floats(row, limits) for row in rows]
        return Batch(ids, torch.cat(rows), torch.tensor([len(row) for row in rows]))

    def _frames(self, video: Video, where: str) -> Tensor:
        """Frames `[T, D]` of a video, T at most `max_frames`, uint8 or float32; of a video vector `[D]`."""
        values = self._columns(video, where) if isinstance(video, Record) else video
        if not isinstance(values, np.ndarray | Tensor):
            raise ConfigError(f"{where}: expected an array or a record, found {type(values).__name__}")
        tensor = values.detach().cpu() if isinstance(values, Tensor) else _as_tensor(values, where)
        size = sum(self.feature_sizes.values())
        vector = self.level == "video" and tensor.ndim == 1
        if tensor.shape[-1:] != (size,) or not (tensor.ndim == 2 or vector) or not len(tensor):
            shape = f"[T, {size}] or [{size}]" if self.level == "video" else f"[T, {size}]"
            features = ", ".join(f"{name} {width}" for name, width in self.feature_sizes.items())
            several = "; pass several videos as a list" if tensor.ndim == 3 else ""
            raise ConfigError(
                f"{where}: expected one video {shape} ({features}), found {list(tensor.shape)}{several}"
            )
        tensor = tensor if vector else tensor[: self.max_frames]
        if tensor.dtype == torch.uint8:
            return tensor
        if not tensor.is_floating_point():
            raise ConfigError(
                f"{where}: expected uint8, or dequantized floats, found {str(tensor.dtype).removeprefix('torch.')}"
            )
        if not tensor.isfinite().all():
            raise ConfigError(f"{where}: expected finite numbers, found NaN or infinity")
        return tensor.float()

    def _columns(self, record: Record, where: str) -> np.ndarray:
        parts = [record.features.get(name) for name in self.feature_sizes]
        if any(part is None for part in parts):
            raise ConfigError(
                f"{where}: expected features {', '.join(self.feature_sizes)}, found {', '.join(record.features)} in "
                f"record {record.id}"
            )
        return np.concatenate([part for part in parts if part is not None], axis=-1)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, also while the caller trains the module."""
    training = {part for part in module.modules() if part.training}
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _as_tensor(values: np.ndarray, where: str) -> Tensor:
    try:
        return torch.tensor(values)
    except TypeError:
        raise ConfigError(f"{where}: expected uint8, or dequantized floats, found {values.dtype}") from None


def _path(features: Any) -> str:
    if not isinstance(features, str | os.PathLike):
        raise ConfigError(f"features: expected a video file beside weights, found {type(features).__name__}")
    return os.fspath(features)
