"""Download a partition of YouTube-8M, or a share of it, with the label files."""

import os
import sys
from pathlib import Path
from typing import Any

from requests.adapters import HTTPAdapter
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from yt8m.download.fetch import Fetcher, Session, origin
from yt8m.download.mirror import MIRRORS, Partition, Share, read_plan
from yt8m.download.transfer import SMALL, Transfer, check_disk, fetch_label_files
from yt8m.download.verified import VerifiedFiles
from yt8m.errors import ConfigError, FetchError, WriteError

LABEL_FILES = {"vocabulary.csv": "vocabulary_url", "segment_label_ids.csv": "segment_label_ids_url"}
# Settings passed to the fetcher unchanged.
FETCHER = ("retries", "max_file_size", "backoff", "max_backoff", "connect_timeout", "read_timeout")


def download(config: dict[str, Any]) -> None:
    """Download as `conf/download.yaml` says; on Ctrl-C, exit at once and keep what is already there."""
    try:
        _download(config)
    except OSError as error:
        raise WriteError(
            f"{error.filename or config['root']}: {error.strerror or error}; correct that and run the same "
            "command again, downloaded files are kept"
        ) from error
    except KeyboardInterrupt:
        print("interrupted; downloaded files are kept, and the same command resumes", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)  # does not wait for threads that wait for a server


def _download(config: dict[str, Any]) -> None:
    """Download a share of a partition, and the label files, to `config["root"]`.

    Raises:
        ConfigError: an argument is wrong, or another download is at work in the folder.
        FetchError: the plan or files could not be downloaded, or the disk has too little room.
        OSError: the disk is full, or cannot be read or written.
    """
    partition = Partition.parse(config["partition"])
    share = Share() if config["shard"] is None else Share.parse(config["shard"])
    try:
        root = Path(config["root"]).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(
            f"root: expected a folder, found {config['root']!r}, the home of no known user"
        ) from None
    folder = root / partition.folder

    console = Console(stderr=True)
    with Session() as session:
        fetcher = make_fetcher(config, session, console)
        plan_url = f"{config['plan_base'].rstrip('/')}/{partition.plan_path}"
        try:
            files, refused = read_plan(fetcher.get(plan_url, SMALL), share)
        except FetchError as error:
            raise FetchError(f"{plan_url}: {error}") from None
        base = f"{config['file_base'].rstrip('/')}/{partition}"
        transfer = Transfer(files, base, folder, fetcher, config["jobs"], console, failed=refused)
        if not config["dry_run"]:
            folder.mkdir(parents=True, exist_ok=True)
        with VerifiedFiles(folder, writable=not config["dry_run"]) as verified:
            there = transfer.look(verified, config["verify"], config["overwrite"])
            size = transfer.size()
            check_disk(root, max(0, (size or 0) - transfer.parts_size()))
            if config["dry_run"]:
                for file, target in transfer.targets.items():
                    print(f"{transfer.url(file)} -> {target}")
                about = "of unknown size" if size is None else f"about {decimal(size)}"
                print(f"{partition}: {there} files present, {len(transfer.targets)} to download, {about}")
                report_failed(transfer.failed, console)
                return
            fetched = transfer.run(verified, size)
        labels = {root / name: config[key] for name, key in LABEL_FILES.items() if config[key]}
        # Version 1 has classes of its own, whose vocabulary is no longer published.
        if partition.version != "1":
            transfer.failed |= fetch_label_files(labels, fetcher, config["overwrite"])
    print(f"{partition}: {there} files were present, {fetched} downloaded to {folder}")
    report_failed(transfer.failed, console)


def make_fetcher(config: dict[str, Any], session: Session, console: Console) -> Fetcher:
    """A fetcher configured by `config`. Redirects may lead to the hosts in `config` and to YouTube-8M's mirrors."""
    urls = {
        key: config[key]
        for key in ("plan_base", "file_base", *LABEL_FILES.values())
        if config[key] is not None
    }
    urls |= {f"allowed_redirects[{i}]": url for i, url in enumerate(config["allowed_redirects"])}
    origins = {origin(f"http://{host}data.yt8m.org") for host in ("", *(f"{name}." for name in MIRRORS))}
    for key, url in urls.items():
        try:
            origins.add(origin(str(url)))
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from None
    session.mount("http", HTTPAdapter(pool_maxsize=config["jobs"]))
    return Fetcher(
        session,
        origins,
        notify=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        **{key: config[key] for key in FETCHER},
    )


def report_failed(failed: dict[str, str], console: Console) -> None:
    """Print {name: reason} as a table and raise FetchError, unless it is empty."""
    if not failed:
        return
    table = Table("file", "reason", title=f"{len(failed)} files could not be downloaded")
    for name in sorted(failed):
        table.add_row(Text(name, no_wrap=True), Text(failed[name], overflow="fold"))
    console.print(table)
    raise FetchError(f"{len(failed)} files could not be downloaded; the same command tries them again")
