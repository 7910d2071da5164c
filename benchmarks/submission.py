"""A whole segment submission from made-up scores: time and memory of ranking and writing it.

    python benchmarks/submission.py --segments 2200000 --classes 1000

Scores come in batches, as from a network, which is not run: only the ranking in `yt8m.predict.segments` is.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from yt8m.predict.segments import SegmentsWriter
from yt8m.predict.writers import Predictions


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--segments", type=int, default=2_200_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=6000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    own = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "segments.csv"
        began = time.perf_counter()
        writer = SegmentsWriter(path, [], [], list(range(arguments.classes)))
        own += time.perf_counter() - began
        for begin in range(0, arguments.segments, arguments.batch):
            count = min(arguments.batch, arguments.segments - begin)
            ids = [f"{(begin + row) // 60:04x}:{(begin + row) % 60 * 5}" for row in range(count)]
            scores = rng.random((count, arguments.classes), np.float32)
            nothing = np.empty((count, 0))
            began = time.perf_counter()
            writer.write(Predictions(ids, nothing, scores, nothing, nothing))
            own += time.perf_counter() - began
        began = time.perf_counter()
        writer.close()
        closing = time.perf_counter() - began
        size = path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"{arguments.segments:,} segments x {arguments.classes:,} classes, {size / 1e6:,.0f} MB file")
    print(f"ranking {own / 60:.1f} min, writing {closing / 60:.1f} min, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
