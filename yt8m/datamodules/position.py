"""The place of a training inside of an epoch: in records of its order, whatever ranks and batches draw them."""

from typing import Any

import pytorch_lightning as pl

from yt8m.datamodules.sampler import BatchSampler
from yt8m.errors import ConfigError

_FIXED = ("seed", "shuffle_window", "bucket_by_length", "records")  # what an epoch's order depends on


def position(trainer: pl.Trainer, sampler: BatchSampler | None) -> dict[str, Any]:
    """The epoch, and how many of its records are used; with the parts of an order by length.

    Records whose gradient is not yet part of a step do not count as used: resuming reads them again.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    started = trainer.fit_loop.epoch_progress.current.ready
    if progress.is_last_batch:
        return {"epoch": started, "records": 0}
    accumulate = trainer.accumulate_grad_batches
    used = progress.current.ready // accumulate * accumulate
    found: dict[str, Any] = {"epoch": started - 1, "records": sampler.place(used) if sampler and used else 0}
    if sampler and sampler.lengths is not None:
        found["sections"] = sampler.sections
    return found


def step_size(order: dict[str, Any], accumulate: int) -> int:
    """Records of one optimizer step over all ranks; earlier versions did not save `accumulate`."""
    return int(order["batch_size"] * order.get("accumulate", accumulate))


def resume_at(sampler: BatchSampler, state: dict[str, Any], now: dict[str, Any]) -> None:
    """Let a sampler start where a checkpoint's training stopped.

    Args:
        sampler: of the training partition.
        state: of the data module in the checkpoint.
        now: what the order of an epoch depends on in this run.

    Raises:
        ConfigError: the rest of the epoch would not be the records that are missing.
    """
    then = state["order"]
    records = state.get("records")
    if records is None:  # of an earlier version, which counted global batches
        records = state["batch"] * then["batch_size"]
    for key in _FIXED if records else ():
        if None not in (then[key], now[key]) and then[key] != now[key]:
            raise ConfigError(
                f"ckpt_path: the checkpoint was saved in the middle of an epoch whose order depends on "
                f"{key} = {then[key]}, found {now[key]}; set it back, or resume from the end of an epoch"
            )
    if records < 0 or (records and now["records"] is not None and records >= now["records"]):
        raise ConfigError(
            f"ckpt_path: expected a place inside an epoch of {now['records']} records, found {records}; the checkpoint "
            "is damaged"
        )
    sampler.start_at(state["epoch"], records, state.get("sections") or [[0, then["batch_size"]]])
