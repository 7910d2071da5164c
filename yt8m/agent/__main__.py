"""Work on a W&B sweep: `python -m yt8m.agent ENTITY/PROJECT/ID`."""

import sys

from yt8m.cli import end
from yt8m.errors import YT8MError

HELP = """\
Works on a W&B sweep: `wandb agent` with the interpreter of this installation and an exit code that shows failures.

wandb sweep conf/sweep/nn_stream_lstm.yaml             makes a sweep and prints its ENTITY/PROJECT/ID
python -m yt8m.agent ENTITY/PROJECT/ID                 runs it, on any number of machines
CUDA_VISIBLE_DEVICES=0 python -m yt8m.agent …          one agent per GPU

Options are those of `wandb agent`
  --count N                  work on N runs at most
  --project, --entity        for a sweep given by its ID alone

Exit code: 0 all runs finished or were stopped by the sweep, 1 a run failed or could not start (each is named),
2 bad arguments, 130 interrupted.
"""


def main() -> None:
    """Run the agent with the command line's arguments."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & {*arguments}:
        print(HELP, end="")
        return
    from yt8m.agent.agent import check_arguments, run_agent

    try:
        check_arguments(arguments)
        code = run_agent(arguments)
    except YT8MError as error:
        end(error.exit_code, f"error: {error}")
    except KeyboardInterrupt:
        end(130, "interrupted")
    sys.exit(code)


if __name__ == "__main__":
    main()
