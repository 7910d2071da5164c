"""Reads and writes of any file system that fsspec knows, retried with back-off and jitter; errors in one line.

Credentials come from the environment, as each library finds them, and never from an address: addresses are in logs,
configurations, and checkpoints.
"""

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import tenacity
from fsspec.core import url_to_fs

from yt8m.errors import ConfigError, FetchError, WriteError, YT8MError
from yt8m.storage.credentials import REMEDY, holds_credentials

log = logging.getLogger(__name__)
# They tell where they found credentials, in the log of every run.
for _name in ("aiobotocore", "botocore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

T = TypeVar("T")

ATTEMPTS = 10  # about a minute
#: Of a listing, a manifest and the like, before the run: a wrong address is the likely cause.
FIRST_ATTEMPTS = 4
ATTEMPTS_WHEN_REFUSED = 3  # credentials may have been renewed since the session read them
WAIT = tenacity.wait_random_exponential(multiplier=0.5, max=20)
_REPORTED = 3  # log from this attempt on: one retry is everyday life in a bucket

_LOCAL = ("file", "local")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
# One layer of retries, here, so that their number is known.
_TIMEOUTS = {"connect_timeout": 10, "read_timeout": 30}
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {**_TIMEOUTS, "retries": {"total_max_attempts": 1, "mode": "standard"}}}
}
# Mistakes of a program, which no repetition cures.
_BUGS = (TypeError, AttributeError, NameError, LookupError, AssertionError, NotImplementedError, MemoryError)

_instances: dict[tuple[int, str], Any] = {}
_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))


class ShortReadError(OSError):
    """Fewer bytes arrived than the range has."""


def protocol_of(address: str) -> str:
    """`s3` of `s3://bucket/key`; empty for a path."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    return match[1].lower() if match else ""


def is_remote(address: str | os.PathLike[str]) -> bool:
    """Whether an address names something other than a local file."""
    text = os.fspath(address)
    protocol = protocol_of(text)
    return ("::" in text and "://" in text) or (bool(protocol) and protocol not in _LOCAL)


def local_path(address: str) -> str:
    """The path of `file:///data` or of a path."""
    return re.sub(r"^(file|local)://", "", address, flags=re.IGNORECASE)


def check_address(address: str, key: str) -> None:
    """Raise ConfigError for an address that cannot be used, without repeating credentials that it may hold."""
    if holds_credentials(address):
        raise ConfigError(f"{key}: {REMEDY}")
    if "::" in address:
        raise ConfigError(
            f"{key}: expected one address, found the chain {address}; shards are cached by themselves"
        )
    protocol = protocol_of(address)
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError:
        raise ConfigError(
            f"{key}: expected a path or an address such as s3://, gs:// or https://, found {protocol}://"
        ) from None
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        package = f"yt8m[{extra}]" if extra else (error.name or protocol)
        raise ConfigError(f"{key}: {protocol}:// needs another package; pip install '{package}'") from None


def filesystem(address: str) -> Any:
    """fsspec's file system of an address: one per process and protocol, without a cache of listings."""
    protocol = protocol_of(address)
    with _lock:
        known = _instances.get((os.getpid(), protocol))
        if known is None:
            options = dict(_OPTIONS.get(protocol, {}))
            if protocol in ("http", "https"):
                import aiohttp

                timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)
                options["client_kwargs"] = {"timeout": timeout}
            known, _ = url_to_fs(address, use_listings_cache=False, skip_instance_cache=True, **options)
            if protocol == "s3":
                known.retries = 1
            _instances[os.getpid(), protocol] = known
        return known


def forget(address: str) -> None:
    """Make the next call open a new session, which reads the credentials again."""
    with _lock:
        _instances.pop((os.getpid(), protocol_of(address)), None)


def call(address: str, what: str, action: Callable[[Any], T], attempts: int | None = None) -> T:
    """`action(filesystem)`, retried on every fault that may pass.

    Args:
        address: of the object, for messages.
        what: what is done, such as "read".
        action: takes the file system.
        attempts: as many as this (default: `ATTEMPTS`).

    Raises:
        FileNotFoundError: there is no such object.
        FetchError: all attempts failed, or access is denied.
        ConfigError: there are no credentials.
    """
    most = attempts or ATTEMPTS
    refused = 0

    def attempt() -> T:
        nonlocal refused
        try:
            return action(filesystem(address))
        except PermissionError:
            refused += 1
            forget(address)
            raise

    def may_pass(error: BaseException) -> bool:
        if isinstance(error, PermissionError):
            return refused < ATTEMPTS_WHEN_REFUSED
        if isinstance(error, (FileNotFoundError, IsADirectoryError, YT8MError, *_BUGS)):
            return False
        return isinstance(error, Exception) and "Credentials" not in type(error).__name__

    def report(state: tenacity.RetryCallState) -> None:
        if state.attempt_number >= _REPORTED and state.outcome and state.next_action:
            log.warning(
                "%s: could not %s (%s); attempt %d of %d failed, the next in %.1f s",
                address,
                what,
                reason(state.outcome.exception()),
                state.attempt_number,
                most,
                state.next_action.sleep,
            )

    try:
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(most),
            wait=WAIT,
            retry=tenacity.retry_if_exception(may_pass),
            before_sleep=report,
            reraise=True,
        )(attempt)
    except (FileNotFoundError, IsADirectoryError, YT8MError, *_BUGS):
        raise
    except PermissionError as error:
        raise FetchError(
            f"{address}: could not {what}, access denied ({reason(error)}); renew the credentials in the environment, "
            "or ask for access, and start or resume"
        ) from None
    except Exception as error:
        if "Credentials" in type(error).__name__:
            raise ConfigError(
                f"{address}: expected credentials in the environment, found none ({reason(error)}); set them as its "
                "provider's tools do, or FSSPEC_S3_ANON=true for a public bucket"
            ) from None
        raise FetchError(
            f"{address}: could not {what} in {most} attempts, the last failed with {reason(error)}; check the network "
            "and the service, and start or resume"
        ) from None


def reason(error: BaseException | None) -> str:
    """A fault in a few words, on one line, without addresses that a redirect may have signed."""
    error = getattr(error, "__cause__", None) or error  # s3fs keeps the service's code there
    text = " ".join(str(error).split()) or "no message"
    text = re.sub(r"\?\S*=\S*", "", re.sub(r"://[^/\s]*@", "://", text))
    return f"{type(error).__name__}: {text[:200]}"


def read(address: str, attempts: int | None = None) -> bytes:
    """A whole small object. Raises FileNotFoundError, and what `call` raises."""
    return bytes(call(address, "read", lambda fs: fs.cat_file(address), attempts))


def write(address: str, content: bytes) -> None:
    """Write an object whole; raises WriteError."""
    _write(address, lambda fs: fs.pipe_file(address, content))


def upload(path: str | os.PathLike[str], address: str) -> None:
    """Copy a local file, such as a new shard, to an address; the object is there whole or not at all.

    Raises:
        ConfigError: the address cannot be used, or there are no credentials.
        WriteError: the object could not be written.
    """
    size = os.path.getsize(path)

    def action(fs: Any) -> None:
        fs.put_file(os.fspath(path), address)
        if (found := fs.info(address).get("size")) not in (None, size):
            raise ShortReadError(f"expected {size} bytes at the end, found {found}")

    check_address(address, "output")
    _write(address, action)


def is_uploaded(path: str | os.PathLike[str], address: str) -> bool:
    """Whether an object is this file: by its MD5 where the storage tells it as the ETag, else by its bytes."""
    try:
        info = call(address, "look up", lambda fs: fs.info(address))
    except FileNotFoundError:
        return False
    if info.get("size") != os.path.getsize(path):
        return False
    content = Path(path).read_bytes()
    return str(info.get("ETag")).strip('"') == hashlib.md5(content).hexdigest() or read(address) == content


def _write(address: str, action: Callable[[Any], None]) -> None:
    try:
        call(address, "write", action)
    except FetchError as error:
        raise WriteError(str(error)) from None
    except (OSError, NotImplementedError) as error:
        raise WriteError(f"{address}: could not write ({reason(error)})") from None


def read_range(address: str, start: int, end: int, check: Callable[[], None]) -> bytes:
    """The bytes [start, end) of an object.

    Args:
        address: of the object.
        start, end: of the range.
        check: called after a fault; raises if the object is not what it was, so that waiting would not help.
    """

    def action(fs: Any) -> bytes:
        try:
            data = bytes(fs.cat_file(address, start=start, end=end))
            if len(data) > end - start:  # a web server that ignores ranges
                data = data[start:end]
            if len(data) != end - start:
                raise ShortReadError(f"expected {end - start} bytes at {start}, found {len(data)}")
            return data
        except PermissionError:
            raise
        except Exception:
            check()
            raise

    return call(address, "read", action)
