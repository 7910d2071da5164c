"""Download a partition of YouTube-8M: `python -m yt8m.download partition=2/frame/train root=~/data/yt8m`."""

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from yt8m.cli import end, launch
from yt8m.config import CONFIG_DIR
from yt8m.downloading.mirror import MIRRORS, FetchError, Partition, Share, read_plan
from yt8m.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from yt8m.downloading.fetch import Fetcher, Session

LABEL_FILES = {"vocabulary.csv": "vocabulary_url", "segment_label_ids.csv": "segment_label_ids_url"}
NUMBERS = {  # key: (lowest, highest), whole numbers where these are
    "jobs": (1, 64),
    "retries": (0, 100),
    "max_file_size": (1, 10**15),
    "backoff": (0.0, 3600.0),
    "max_backoff": (0.0, 3600.0),
    "connect_timeout": (0.01, 3600.0),
    "read_timeout": (0.01, 3600.0),
}


def download(cfg: DictConfig) -> int:
    """Bring a share of a partition, and the label files, under `cfg.root`.

    Args:
        cfg: as in `conf/download.yaml`.

    Returns:
        0, or 1 where files could not be had, each of which has then been named.

    Raises:
        ConfigError: an argument is wrong, or another download is at work in the folder.
        FetchError: the plan could not be had, or the disk has too little room.
        OSError: the disk is full, or cannot be read or written.
    """
    check(cfg)
    partition = Partition.parse(cfg.partition)
    share = Share() if cfg.shard is None else Share.parse(cfg.shard)
    try:
        root = Path(cfg.root).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"root: expected a folder, found {cfg.root!r}, the home of no known user") from None
    folder = root / partition.folder

    # Imported here: `--help` and a misspelt argument must not wait for them.
    from rich.console import Console
    from rich.filesize import decimal

    from yt8m.downloading.fetch import Session
    from yt8m.downloading.transfer import SMALL, Transfer, check_disk, fetch_label_files
    from yt8m.downloading.verified import VerifiedFiles

    console = Console(stderr=True)
    with Session() as session:
        fetcher = make_fetcher(cfg, session, console)
        plan_url = f"{cfg.plan_base.rstrip('/')}/{partition.plan_path}"
        try:
            files, refused = read_plan(fetcher.get(plan_url, SMALL), share)
        except FetchError as error:
            raise FetchError(f"{plan_url}: {error}") from None
        base = f"{cfg.file_base.rstrip('/')}/{partition}"
        transfer = Transfer(files, base, folder, fetcher, cfg.jobs, console, failed=refused)
        if not cfg.dry_run:
            folder.mkdir(parents=True, exist_ok=True)
        with VerifiedFiles(folder, writable=not cfg.dry_run) as verified:
            there = transfer.look(verified, cfg.verify, cfg.overwrite)
            size = transfer.size()
            check_disk(root, max(0, (size or 0) - transfer.parts_size()))
            if cfg.dry_run:
                for file, target in transfer.targets.items():
                    print(f"{transfer.url(file)} -> {target}")
                about = "of unknown size" if size is None else f"about {decimal(size)}"
                print(f"{partition}: {there} files are there, {len(transfer.targets)} to be fetched, {about}")
                return name_failed(transfer.failed, console)
            fetched = transfer.run(verified, size)
        labels = {root / name: cfg[key] for name, key in LABEL_FILES.items() if cfg[key]}
        # Version 1 has classes of its own, whose vocabulary is no longer published.
        if partition.version != "1":
            transfer.failed |= fetch_label_files(labels, fetcher, cfg.overwrite)
    print(f"{partition}: {there} files were there, {fetched} fetched; in {folder}")
    return name_failed(transfer.failed, console)


def check(cfg: DictConfig) -> None:
    """Raise `ConfigError` for the first argument of a wrong kind or out of range."""
    for key in ("partition", "root", "mirror", "plan_base", "file_base"):
        if OmegaConf.is_missing(cfg, key):
            raise ConfigError(f"{key}: is needed; see --help for an example")
        if not isinstance(cfg[key], str) or not cfg[key]:
            raise ConfigError(f"{key}: expected a text, found {cfg[key]!r}; see --help")
    if cfg.shard is not None and not isinstance(cfg.shard, str):
        raise ConfigError(f"shard: expected X,Y, found {cfg.shard!r}; try shard=1,100")
    if cfg.mirror not in MIRRORS:
        raise ConfigError(f"mirror: expected one of {', '.join(MIRRORS)}, found {cfg.mirror!r}")
    if not OmegaConf.is_list(cfg.allowed_redirects):
        raise ConfigError(f"allowed_redirects: expected [URL, ...], found {cfg.allowed_redirects!r}")
    for key in ("dry_run", "overwrite", "verify"):
        if not isinstance(cfg[key], bool):
            raise ConfigError(f"{key}: expected true or false, found {cfg[key]!r}")
    for key, (low, high) in NUMBERS.items():
        kinds = int if isinstance(low, int) else (int, float)
        if isinstance(cfg[key], bool) or not isinstance(cfg[key], kinds) or not low <= cfg[key] <= high:
            whole = "a whole number" if kinds is int else "a number"
            raise ConfigError(f"{key}: expected {whole} from {low} to {high}, found {cfg[key]!r}")


def make_fetcher(cfg: DictConfig, session: "Session", console: "Console") -> "Fetcher":
    """A fetcher by the rules of `cfg`; redirects may lead to the hosts in `cfg` and YouTube-8M's mirrors."""
    from requests.adapters import HTTPAdapter

    from yt8m.downloading.fetch import Fetcher, origin

    urls = {
        key: cfg[key] for key in ("plan_base", "file_base", *LABEL_FILES.values()) if cfg[key] is not None
    }
    urls |= {f"allowed_redirects[{i}]": url for i, url in enumerate(cfg.allowed_redirects)}
    origins = {origin(f"http://{host}data.yt8m.org") for host in ("", *(f"{name}." for name in MIRRORS))}
    for key, url in urls.items():
        try:
            origins.add(origin(str(url)))
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from None
    session.mount("http", HTTPAdapter(pool_maxsize=cfg.jobs))
    return Fetcher(
        session,
        origins,
        notify=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        **{key: cfg[key] for key in NUMBERS if key != "jobs"},
    )


def as_typed(argument: str) -> str:
    """`shard=1,100` and `root=~/data`, quoted so that Hydra takes them as they are.

    To its grammar a comma means a sweep, and `~` the removal of a key.
    """
    match = re.fullmatch(r"(shard|root)=(?!null$)([^'\"]*[^'\"\\])", argument)
    return f"{match[1]}='{match[2]}'" if match else argument


def name_failed(failed: dict[str, str], console: "Console") -> int:
    """Show {name: why} as a table; the exit code."""
    from rich.table import Table
    from rich.text import Text

    if not failed:
        return 0
    table = Table("file", "why", title=f"{len(failed)} could not be had; the same command tries them again")
    for name in sorted(failed):
        table.add_row(Text(name, no_wrap=True), Text(failed[name], overflow="fold"))
    console.print(table)
    return 1


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="download")
def _command(cfg: DictConfig) -> None:
    try:
        code = download(cfg)
    except ConfigError as error:
        end(2, f"error: {error}")
    except FetchError as error:
        end(1, f"error: {error}")
    except OSError as error:
        what = f"{error.filename or cfg.root}: {error.strerror or error}"
        end(1, f"error: {what}; put that right and run the same command again, what has arrived is kept")
    if code:  # In a multirun the next job follows a job that went well.
        sys.exit(code)


def main() -> None:
    """The command."""
    sys.argv[1:] = map(as_typed, sys.argv[1:])
    try:
        launch(_command)
    except KeyboardInterrupt:
        print("interrupted; what has arrived is kept, and the same command goes on", file=sys.stderr)
        sys.stdout.flush()
        os._exit(130)  # without waiting for threads that wait for a server


if __name__ == "__main__":
    main()
