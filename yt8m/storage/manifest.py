"""The manifest of a dataset: name, records, bytes and checksum of every shard, as a CSV file."""

import csv
import io
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from yt8m.errors import ConfigError

MANIFEST = "manifest.csv"  # its usual name, below the dataset's root
_COLUMNS = ["shard", "records", "bytes", "crc32c"]


class Entry(NamedTuple):
    """One shard: its path below the root, number of records, size, and the CRC-32C of the whole file."""

    shard: str
    records: int
    bytes: int
    crc32c: int


def to_csv(entries: Iterable[Entry]) -> str:
    """The manifest's text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((e.shard, e.records, e.bytes, f"{e.crc32c:08x}") for e in entries)
    return text.getvalue()


def from_csv(content: bytes, address: str) -> list[Entry]:
    """The entries of a manifest. Raises ConfigError with the line that is wrong."""
    entries: dict[str, Entry] = {}
    number = 1
    try:
        rows = csv.reader(io.StringIO(content.decode()))
        if (header := next(rows, [])) != _COLUMNS:
            raise ValueError(f"the columns {','.join(_COLUMNS)}, found {','.join(header)[:80]!r}")
        for row in rows:
            number += 1
            if len(row) != len(_COLUMNS):
                raise ValueError(f"{len(_COLUMNS)} values, found {len(row)}")
            name, records, size, crc = row
            if not _is_below(name) or name in entries:
                raise ValueError(f"the path of another shard below the root, found {name[:80]!r}")
            if not (records.isdecimal() and size.isdecimal() and re.fullmatch(r"[0-9a-f]{8}", crc)):
                raise ValueError(
                    f"two whole numbers and 8 hexadecimal digits, found {','.join(row[1:])[:80]!r}"
                )
            entries[name] = Entry(name, int(records), int(size), int(crc, 16))
    except (ValueError, csv.Error) as error:
        raise ConfigError(
            f"dataset.manifest: {address} line {number}: expected {error}; make it anew with yt8m.verify manifest=FILE"
        ) from None
    return list(entries.values())


def _is_below(name: str) -> bool:
    parts = name.split("/")
    return not os.path.isabs(name) and "://" not in name and not {"", ".", ".."}.intersection(parts)
