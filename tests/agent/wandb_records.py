"""What a W&B run wrote: its transaction log, read record by record."""

import struct
from pathlib import Path
from typing import Any

BLOCK = 32 << 10


def read_records(run_folder: Path) -> list[Any]:
    """The protobuf records of a run's `run-ID.wandb`, a log in LevelDB's format behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = run_folder.glob("run-*.wandb")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    records, position, parts = [], 7, b""
    while position + 7 <= len(content):
        if BLOCK - position % BLOCK < 7:  # the rest of a block that no header fits in
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(parts))
            parts = b""
    return records
