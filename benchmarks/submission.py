"""A whole segment submission from made-up scores: time and memory of ranking and writing it.

    python benchmarks/submission.py --segments 2200000 --classes 1000

Scores come in batches, as from a network, which is not run: only the ranking in `yt8m.predict.segments` is.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import results

from yt8m.predict.segments import SegmentsWriter
from yt8m.predict.writers import Predictions


def measure(segments: int, classes: int, batch: int) -> tuple[float, float, int]:
    """Seconds of ranking and of writing, and the file's bytes."""
    rng = np.random.default_rng(0)
    nothing = np.empty((batch, 0))
    ranking = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segments.csv"
        writer = SegmentsWriter(path, [], [], list(range(classes)))
        for begin in range(0, segments, batch):
            rows = range(begin, min(begin + batch, segments))
            # Videos' ids have four letters, and each has 60 segments.
            ids = [f"{row // 60:04x}:{row % 60 * 5}" for row in rows]
            predictions = Predictions(
                ids, nothing, rng.random((len(rows), classes), np.float32), nothing, nothing
            )
            began = time.perf_counter()
            writer.write(predictions)
            ranking += time.perf_counter() - began
        began = time.perf_counter()
        writer.close()
        return ranking, time.perf_counter() - began, path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--segments", type=int, default=2_200_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=6000, help="segments that come at a time")
    results.add_option(parser)
    options = parser.parse_args()
    before = results.memory().get("VmHWM", 0)
    ranking, writing, size = measure(options.segments, options.classes, options.batch)
    peak = results.memory().get("VmHWM", 0)
    results.report(
        options.results,
        f"A submission of {options.segments:,} segments for {options.classes:,} classes",
        results.command(parser, options),
        ("ranking, s", "µs a segment", "writing, s", "file, MB", "peak memory, MB", "of which its own"),
        [
            (
                f"{ranking:.0f}",
                f"{ranking / options.segments * 1e6:.0f}",
                f"{writing:.0f}",
                f"{size / 1e6:,.0f}",
                f"{peak:,.0f}",
                f"{peak - before:,.0f}",
            )
        ],
        "One process, without the network: scores are drawn at random, which is not counted.",
    )


if __name__ == "__main__":
    main()
