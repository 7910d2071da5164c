"""Drawing the plots of all sections, as many at a time as there are processors."""

import signal
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress

from yt8m.cpus import available_cpus
from yt8m.errors import ReaderError
from yt8m.explore.plots import png
from yt8m.explore.sections import Section


def draw_all(sections: Sequence[Section], console: Console) -> list[Section]:
    """The sections with the images of their plots, which separate processes draw.

    Raises:
        ReaderError: one of these was killed.
    """
    figures = [plot.figure for section in sections for plot in section.plots]
    pool = ProcessPoolExecutor(
        min(available_cpus(), len(figures)), get_context("fork"), initializer=_ignore_interrupts
    )
    drawn = pool.map(png, figures)  # forks before the progress bar starts its thread
    try:
        with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), console=console) as progress:
            images = iter(list(progress.track(drawn, len(figures), description="drawing")))
    except BrokenExecutor:
        raise ReaderError("a drawing process was killed, possibly because memory ran out") from None
    finally:
        pool.shutdown(cancel_futures=True)
    return [
        replace(section, plots=[replace(plot, images=next(images)) for plot in section.plots])
        for section in sections
    ]


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
