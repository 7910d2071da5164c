"""Fetch files over HTTP: resumable, retried, verified, renamed on completion; no server is trusted."""

import hashlib
import os
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import requests

from yt8m import __version__
from yt8m.errors import FetchError

CHUNK = 1 << 15  # bytes read between checks of `Fetcher.stop`; the most that a killed process loses
PART = ".part"  # suffix of an incomplete file
_REDIRECTS = 5
_RETRIED = {408, 425, 429}  # and every 5xx
_PORTS = {"http": 80, "https": 443}
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", re.ASCII)

T = TypeVar("T")


class Stopped(Exception):
    """`Fetcher.stop` was set; the part file keeps what was downloaded."""


class _Interrupted(Exception):
    """A server failure worth a retry, after `retry_after` seconds if the server named a time."""

    def __init__(self, reason: str, retry_after: float = 0.0):
        super().__init__(reason)
        self.retry_after = retry_after


class Session(requests.Session):
    """Leaves redirects to `Fetcher`: requests parses them even with `allow_redirects=False`."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, so that requests sees no redirect."""


def origin(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of an http or https URL; raises `ValueError` on any other text."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or "\\" in url:
        raise ValueError(f"not an http or https URL: {url!a}")
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]


def md5sum(path: Path) -> str:
    """The md5 of a file, in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@dataclass
class Fetcher:
    """Fetches URLs under one set of rules; safe to share between threads.

    Args:
        session: keeps the connections; whoever opened it closes it.
        origins: what `origin` gives for every place a redirect may lead to.
        connect_timeout: seconds to wait for a connection.
        read_timeout: seconds without a byte after which a connection counts as stalled.
        retries: how often in a row to try again after a failure that may pass; bytes that arrived
            start the count anew.
        backoff: seconds before the first retry; doubled for each further one, less up to half by chance.
        max_backoff: upper limit of that, and of what a server asks for in `Retry-After`.
        max_file_size: bytes; what is or claims to be larger is refused.
        notify: called with one line for each retry.
    """

    session: Session
    origins: set[tuple[str, str, int]]
    connect_timeout: float
    read_timeout: float
    retries: int
    backoff: float
    max_backoff: float
    max_file_size: int
    notify: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)

    def get(self, url: str, max_size: int) -> bytes:
        """The whole body of a small file; raises `FetchError`."""

        def attempt() -> bytes:
            with self._answer("GET", url) as response:
                _require(response, (200,))
                body = bytearray()
                for chunk in response.iter_content(CHUNK):
                    body += chunk
                    if len(body) > max_size:
                        raise FetchError(f"refused: larger than {max_size:,} bytes")
                return bytes(body)

        return self._retry(url, attempt, lambda: 0)

    def size(self, url: str) -> int | None:
        """The size in bytes from a HEAD request, or None if the server does not send it."""
        try:
            with self._answer("HEAD", url) as response:
                return _content_length(response) if response.status_code == 200 else None
        except (FetchError, requests.RequestException):
            return None

    def download(self, url: str, target: Path, md5: str, report: Callable[[int, int | None], None]) -> None:
        """Makes `target` the file at `url`, resuming from `target`.part if it exists.

        `target` appears, or is replaced, only whole, verified and on disk. A part that turns out wrong is
        thrown away and fetched once more from its first byte.

        Args:
            report: called with (bytes had so far, bytes in all or None).

        Raises:
            FetchError: the file could not be had.
            OSError: the disk is full, or cannot be written.
        """
        part = target.with_name(target.name + PART)
        for _ in range(2):
            self._retry(url, lambda: self._extend(part, url, report), lambda: _size(part))
            found = md5sum(part)
            if found == md5:
                settle(part, target)
                return
            part.unlink()
        raise FetchError(f"wrong bytes, twice: md5 {found}, the plan says {md5}; try another mirror")

    def _extend(self, part: Path, url: str, report: Callable[[int, int | None], None]) -> None:
        """Append the missing bytes to `part`. A complete or oversized part is left to the md5 check."""
        have = _size(part)
        with self._answer("GET", url, have) as response:
            if have and response.status_code == 416:
                return
            _require(response, (200, 206) if have else (200,))
            if response.status_code == 206:
                content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
                if not content_range or int(content_range[1]) != have:
                    part.unlink()
                    raise _Interrupted("the server sent a different range than requested")
                total: int | None = int(content_range[2])
            else:
                have, total = 0, _content_length(response)
            if total is not None and total > self.max_file_size:
                raise self._too_large(total)
            with part.open("ab" if have else "wb") as file:
                report(have, total)
                for chunk in response.iter_content(CHUNK):
                    if self.stop.is_set():
                        raise Stopped
                    file.write(chunk)
                    have += len(chunk)
                    report(have, total)
                    if have > self.max_file_size:
                        break
        if have > self.max_file_size:
            part.unlink()
            raise self._too_large(have)
        if total is not None and have < total:
            raise _Interrupted("the connection was lost")

    def _too_large(self, size: int) -> FetchError:
        return FetchError(f"refused: {size:,} bytes, more than max_file_size={self.max_file_size:,}")

    def _answer(self, method: str, url: str, offset: int = 0) -> requests.Response:
        """The response to one request, after allowed redirects."""
        # Any other encoding would make the bytes on the wire differ from those of the file.
        headers = {"User-Agent": f"yt8m/{__version__}", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        for _ in range(_REDIRECTS + 1):
            response = self.session.request(
                method,
                url,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(self.connect_timeout, self.read_timeout),
            )
            if not response.is_redirect:
                return response
            response.close()
            url = self._redirected(url, response.headers["Location"])
        raise FetchError(f"refused: more than {_REDIRECTS} redirects")

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            place = origin(target)
        except ValueError:
            raise FetchError(f"refused: redirect to {location!a}") from None
        if place[0] != origin(url)[0]:
            raise FetchError(f"refused: redirect to another scheme, {target!a}")
        if place not in self.origins:
            raise FetchError(
                f"refused: redirect to another host, {target!a}; if you trust it, add it to allowed_redirects"
            )
        return target

    def _retry(self, url: str, attempt: Callable[[], T], progress: Callable[[], int]) -> T:
        failures, best = 0, progress()
        while True:
            try:
                return attempt()
            except _Interrupted as error:
                reason, retry_after = str(error), error.retry_after
            except requests.RequestException as error:
                reason, retry_after = _reason(error), 0.0
            if progress() > best:
                failures, best = 0, progress()
            failures += 1
            if failures > self.retries:
                raise FetchError(f"{reason}; gave up after {failures} attempts in a row")
            delay = self.backoff * 2 ** (failures - 1) * random.uniform(0.5, 1)
            delay = min(max(delay, retry_after), self.max_backoff)
            self.notify(f"{url}: {reason}; retry {failures} of {self.retries} in {delay:.1f} s")
            if self.stop.wait(delay):
                raise Stopped


def _require(response: requests.Response, statuses: tuple[int, ...]) -> None:
    if response.status_code in _RETRIED or response.status_code >= 500:
        retry_after = response.headers.get("Retry-After", "")
        raise _Interrupted(
            f"HTTP {response.status_code}", float(retry_after) if retry_after.isdecimal() else 0.0
        )
    if response.status_code not in statuses:
        raise FetchError(f"HTTP {response.status_code}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(f"refused: sent with content encoding {response.headers['Content-Encoding']!a}")


def _content_length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and len(length) < 19 else None


def _reason(error: requests.RequestException) -> str:
    # A read that times out in the middle of a body arrives as a ConnectionError.
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "the server stalled"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was lost"
    # The exception holds others, each printed inside the one around it; the last one is the cause.
    cause = str(error).rsplit(": ", 1)[-1].strip("\"')>")
    return f"no connection ({cause:.100})"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def settle(part: Path, target: Path) -> None:
    """Rename `part` to `target`; after a power failure the file is complete or absent."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
