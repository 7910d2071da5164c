"""Download the files of a partition to a folder, several at once."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich import progress as bars
from rich.console import Console
from rich.filesize import decimal

from yt8m.download.fetch import PART, Fetcher, md5sum, settle
from yt8m.download.mirror import PlannedFile
from yt8m.download.verified import VerifiedFiles
from yt8m.errors import FetchError

SMALL = 16 << 20  # bytes; download plans and label files are far smaller
_SAMPLE = 16  # files whose size is requested; the shards of a partition are about equally large

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Transfer:
    """The download of a partition's files to one folder.

    Args:
        files: what the folder shall hold.
        base: URL of the same folder on the mirror.
        folder: where the files go.
        fetcher: fetches them.
        jobs: files at once.
        console: shows the progress, if it is a terminal.

    Attributes:
        targets: where each file that is not there yet shall lie.
        failed: {name: why} of the files that could not be had.
    """

    files: list[PlannedFile]
    base: str
    folder: Path
    fetcher: Fetcher
    jobs: int
    console: Console
    targets: dict[PlannedFile, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def url(self, file: PlannedFile) -> str:
        """The URL of `file` on the mirror."""
        return f"{self.base}/{file.name}"

    def look(self, verified: VerifiedFiles, verify: bool, overwrite: bool) -> int:
        """Count the files that are present; the others become `targets`.

        A file is there when it lies under its own or its stored name with the right md5: hashed now or,
        without `verify`, known to `verified`. With another md5 it is a target if `overwrite`, else it failed.
        """
        # List the folder instead of looking up names: some file systems ignore case, and names differ in it.
        names = set(os.listdir(self.folder)) if self.folder.is_dir() else set()

        def find(file: PlannedFile) -> tuple[Path | None, bool]:
            paths = [self.folder / name for name in (file.stored_name, file.name) if name in names]
            for path in paths:
                if (not verify and verified.knows(path, file.md5)) or md5sum(path) == file.md5:
                    return path, True
            return (paths[0] if paths else None), False

        states: dict[PlannedFile, tuple[Path | None, bool]] = {}
        with self._bars(bars.BarColumn(), bars.MofNCompleteColumn()) as progress:
            task = progress.add_task("checking what is there", total=len(self.files))
            for file, (path, right) in self._on_threads(find, self.files):
                progress.advance(task)
                states[file] = path, right
                if right and path:
                    verified.add(path, file.md5)
        for file in self.files:
            path, right = states[file]
            if path and not right and not overwrite:
                self.failed[file.name] = f"{path} has another md5; overwrite=true replaces it"
            elif not right:
                self.targets[file] = path or self.folder / file.stored_name
        return sum(right for _, right in states.values())

    def size(self) -> int | None:
        """Bytes of all `targets`, estimated from the sizes of some; None if the mirror does not send sizes."""
        sample = list(self.targets)[:: max(1, len(self.targets) // _SAMPLE)]
        sizes = [size for _, size in self._on_threads(lambda file: self.fetcher.size(self.url(file)), sample)]
        told = [size for size in sizes if size is not None and size <= self.fetcher.max_file_size]
        return sum(told) * len(self.targets) // len(told) if told else None

    def parts_size(self) -> int:
        """Bytes of `targets` left by an earlier run."""
        parts = (target.with_name(target.name + PART) for target in self.targets.values())
        return sum(part.stat().st_size for part in parts if part.exists())

    def run(self, verified: VerifiedFiles, size: int | None) -> int:
        """Fetch `targets`, about `size` bytes. Returns how many were downloaded; the others are in `failed`.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        done = 0
        columns = bars.BarColumn, bars.DownloadColumn, bars.TransferSpeedColumn, bars.TimeRemainingColumn
        with self._bars(*(column() for column in columns)) as progress:
            whole = progress.add_task(f"0 of {len(self.targets)} files", total=size)

            def fetch(file: PlannedFile) -> str | None:
                task, before = progress.add_task(file.stored_name, total=None), 0

                def report(have: int, total: int | None) -> None:
                    nonlocal before
                    progress.update(task, completed=have, total=total)
                    progress.advance(whole, have - before)
                    before = have

                try:
                    self.fetcher.download(self.url(file), self.targets[file], file.md5, report)
                except FetchError as error:
                    return f"{self.url(file)}: {error}"
                finally:
                    progress.remove_task(task)
                return None

            for file, why in self._on_threads(fetch, list(self.targets)):
                if why:
                    self.failed[file.name] = why
                    continue
                done += 1
                verified.add(self.targets[file], file.md5)
                progress.update(whole, description=f"{done} of {len(self.targets)} files")
        return done

    def _bars(self, *columns: bars.ProgressColumn) -> bars.Progress:
        return bars.Progress(
            bars.TextColumn("{task.description}"),
            *columns,
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def _on_threads(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Yield (item, function(item)) on completion; an exception in one call stops all of them."""
        pool = ThreadPoolExecutor(self.jobs)
        futures = {pool.submit(function, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            self.fetcher.stop.set()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def fetch_label_files(urls: dict[Path, str], fetcher: Fetcher, overwrite: bool) -> dict[str, str]:
    """Fetch each label file unless it is present. Returns {name: reason} of the failures."""
    failed = {}
    for target, url in urls.items():
        try:
            _fetch_label_file(url, target, fetcher, overwrite)
        except FetchError as error:
            failed[target.name] = f"{url}: {error}"
    return failed


def check_disk(folder: Path, needed: int) -> None:
    """Raise `FetchError` if the disk of `folder`, which need not exist yet, has fewer bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FetchError(
            f"{folder}: {decimal(free)} free, about {decimal(needed)} needed; "
            "make room, or choose a smaller share (shard=1,100) or another root"
        )


def _fetch_label_file(url: str, target: Path, fetcher: Fetcher, overwrite: bool) -> None:
    # There is no md5 for these, so the header has to tell them from an error page.
    def is_table(body: bytes) -> bool:
        return body.removeprefix(b"\xef\xbb\xbf").startswith(b"Index")

    if target.exists():
        if is_table(target.read_bytes()):
            return
        if not overwrite:
            raise FetchError(f"{target} has no column Index; overwrite=true replaces it")
    body = fetcher.get(url, SMALL)
    if not is_table(body):
        raise FetchError(f"refused: expected a table with a column Index, found {body[:20]!a}")
    # Downloads of other partitions may be fetching the same file into the same root.
    part = target.with_name(f"{target.name}.{os.getpid()}{PART}")
    part.write_bytes(body)
    settle(part, target)
