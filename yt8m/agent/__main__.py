"""`wandb agent` with an exit code that tells: `python -m yt8m.agent ENTITY/PROJECT/ID [its options]`.

The agent itself ends with 0 even when every run that it started has failed.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from yt8m.cli import RUNS_RECORD


def main() -> None:
    """The command: 1 when a run failed or was killed, and each such run named; else the agent's own code."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "runs"
        record.touch()
        agent = subprocess.run(
            [sys.executable, "-m", "wandb", "agent", *sys.argv[1:]],
            env={**os.environ, RUNS_RECORD: str(record)},
            check=False,
        )
        events = [line.split(" ", 2) for line in record.read_text().splitlines()]
    done = {run for event, run, _ in events if event == "done"}
    failed = {run: overrides for _, run, overrides in events if run not in done}
    for run, overrides in failed.items():
        print(f"error: run {run} failed: {overrides}", file=sys.stderr)
    sys.exit(1 if failed else agent.returncode)


if __name__ == "__main__":
    main()
