"""Extraction: from video files to shards of both levels."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from yt8m.cpus import available_cpus
from yt8m.errors import ConfigError, DataError, WriteError, require
from yt8m.extract.bucket import BucketOutput
from yt8m.extract.compare import compare
from yt8m.extract.plan import MANIFEST, Manifest, Video, find_videos
from yt8m.extract.records import Done, serialize, write_shards
from yt8m.storage import transport
from yt8m.video.extractor import FeatureExtractor
from yt8m.video.source import Stopped
from yt8m.video.weights import md5

DONE = ".done"  # folder of videos that are not in a shard yet


def extract(config: dict[str, Any]) -> None:
    """Write the features of videos as shards; print a line for each file with a problem.

    Args:
        config: as in `conf/extract.yaml`.

    Raises:
        ConfigError: an argument is wrong, or a weight file is missing.
        DataError: some files could not be read; all others are written.
        WriteError: the output could not be written.
    """
    require("av", "videos")
    for key in ("videos", "output", "weights"):
        if not config[key]:
            raise ConfigError(f"{key}: expected a value, found none; see --help for an example")
    patterns = config["videos"] if isinstance(config["videos"], list) else [config["videos"]]
    bucket = BucketOutput(config["output"]) if transport.is_remote(config["output"]) else None
    output = bucket.work if bucket else Path(transport.local_path(config["output"])).expanduser()
    place = bucket or output  # for messages
    if bucket and config["compare"]:
        raise ConfigError(f"compare: expected output=DIR, a local folder, with it, found {bucket}")
    jobs = config["jobs"] or min(4, available_cpus())
    threads = max(1, available_cpus() // jobs)
    find_videos(patterns, output, Manifest({}))  # before weights are loaded
    extractor = FeatureExtractor.load(
        config["weights"], audio=config["audio"], device=config["device"], threads=threads
    )
    settings = {
        "max_frames": config["max_frames"],
        "partition": config["partition"],
        "features": extractor.feature_sizes,
        "zero_audio": extractor.zero_audio,
        "weights": {path.name: md5(path) for one in extractor.networks.values() for path in one.files},
    }
    console = Console(highlight=False)
    with _locked(output):
        if bucket:
            bucket.begin()
        manifest = Manifest.open(output, settings)
        if bucket:  # the first upload before any work, in case that nothing can be written there
            manifest.write(output)
            bucket.upload()
        videos = find_videos(patterns, output, manifest)
        todo = manifest.left(videos)
        if len(todo) < len(videos):
            console.print(f"{len(videos) - len(todo)} of {len(videos)} videos are done already")
        written = bucket.upload if bucket else None
        Run(extractor, manifest, output, config["shard_videos"], console, written).run(todo, jobs)
        _summarize(console, manifest, place)
        if config["compare"]:
            compare(output, Path(config["compare"]).expanduser(), console)
    if manifest.failed:
        raise DataError(
            f"{len(manifest.failed)} of {len(videos)} videos could not be read (see above, and {place}/{MANIFEST}); "
            "the others are written, and the same command tries these again"
        )


class Run:
    """One run over the videos that are left.

    Each video is kept as soon as it is done, so a run that is killed goes on where it was. Shards hold the videos in
    sorted order, whatever order they finish in. `written` is called after shards and the manifest were.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        manifest: Manifest,
        output: Path,
        shard_videos: int,
        console: Console,
        written: Callable[[], None] | None = None,
    ):
        self.extractor, self.manifest, self.output, self.console = extractor, manifest, output, console
        self.shard_videos, self.done = shard_videos, Done(output / DONE)
        self.notes: dict[str, list[str]] = {}
        self._written = written or (lambda: None)

    def run(self, todo: list[Video], jobs: int) -> None:
        """Extract and write `todo`, with `jobs` decoders at a time."""
        blocks = [todo[start : start + self.shard_videos] for start in range(0, len(todo), self.shard_videos)]
        left, first = [len(block) for block in blocks], self.manifest.next_number
        columns = (
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with (
            Progress(*columns, console=self.console, transient=True) as progress,
            ThreadPoolExecutor(jobs) as pool,
        ):
            task = progress.add_task("videos", total=len(todo))
            futures: dict[Future[list[str]], tuple[int, Video]] = {}
            try:
                for number, block in enumerate(blocks):
                    for video in block:
                        futures[pool.submit(self._extract, video)] = number, video
                for future in as_completed(futures):
                    number, video = futures.pop(future)
                    self._finish(video, future)
                    progress.advance(task)
                    left[number] -= 1
                    if not left[number]:
                        self._write(blocks[number], first + number)
            except BaseException as error:
                self.extractor.stop.set()
                pool.shutdown(cancel_futures=True)
                if isinstance(error, KeyboardInterrupt):
                    raise KeyboardInterrupt(
                        "interrupted: the videos that are done are kept; the same command goes on"
                    ) from None
                raise
        self.manifest.write(self.output)
        self._written()
        if (self.output / DONE).is_dir() and not any((self.output / DONE).iterdir()):
            (self.output / DONE).rmdir()

    def _extract(self, video: Video) -> list[str]:
        """In a thread: keep the video's records; what to say of the file."""
        key = video.key(self.manifest.settings)
        if self.done.get(key) is not None:
            return []
        with video.remote.local_copy() if video.remote else nullcontext(video.path) as path:
            try:
                features = self.extractor(path, max_frames=self.manifest.settings["max_frames"])
            except DataError as error:
                raise DataError(str(error).replace(path, video.path)) from None
        self.done.add(key, serialize(video.id, features))
        return list(features.notes)

    def _finish(self, video: Video, future: Future[list[str]]) -> None:
        try:
            notes = future.result()
        except (DataError, Stopped) as error:
            self.manifest.failed[video.path] = str(error)
            self.console.print(f"failed  {error}", markup=False, soft_wrap=True, style="red")
            return
        self.notes[video.path] = notes
        for note in notes:
            self.console.print(f"note    {video.path}: {note}", markup=False, soft_wrap=True)

    def _write(self, block: list[Video], number: int) -> None:
        """Write the shards numbered `number` of a block whose videos are all done or failed."""
        good = [video for video in block if video.path not in self.manifest.failed]
        keys = [video.key(self.manifest.settings) for video in good]
        records = [self.done.get(key) for key in keys]
        whole = [one for one in records if one is not None]
        if len(whole) < len(records):
            raise WriteError(
                f"{self.done.folder}: expected the videos that are done, some are gone; start again"
            )
        if not good:
            return
        name = write_shards(self.output, self.manifest.settings["partition"], number, whole)
        for video, key in zip(good, keys, strict=True):
            self.manifest.videos[video.path] = {
                "id": video.id,
                "size": video.size,
                "mtime_ns": video.mtime_ns,
                "frames": self.done.frames(key),
                "shard": name,
                "notes": self.notes[video.path],
            }
        self.manifest.write(self.output)
        self.done.remove(keys)
        self._written()


def _summarize(console: Console, manifest: Manifest, output: Path | BucketOutput) -> None:
    partition, features = manifest.settings["partition"], manifest.settings["features"]
    frames = sum(entry["frames"] for entry in manifest.videos.values())
    console.print(
        f"{output}: {len(manifest.videos)} videos, {frames} frames of {' and '.join(features)}, "
        f"{manifest.shards} shards of each level",
        markup=False,
        soft_wrap=True,
    )
    without = "" if "audio" in features else " ~dataset.features.audio"
    if without:
        console.print("no audio: rgb alone, because there is no VGGish in weights or because audio=none")
    console.print(
        f"check:  python -m yt8m.verify dataset=yt8m_frame dataset.root={output} partition={partition} "
        f"dataset.{partition}='2/frame/{partition}/*.tfrecord'{without}",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Keep other runs out of the folder."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / ".extract.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"output: expected a folder for this run alone, found another run in {output}"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"output: expected a folder to write to, found {output}: {error.strerror}"
        ) from None
    try:
        yield
    finally:
        lock.release()
