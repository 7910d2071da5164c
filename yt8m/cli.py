"""The entry point that all commands share: Hydra, validation, one-line errors, exit codes.

Exit codes: 0 success, 1 the work failed, 2 the call was wrong, 130 interrupted.

Only the standard library is imported here before a command starts, so that `--help` is fast and Ctrl-C during
start-up ends in one line, too.
"""

import errno
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from types import ModuleType
from typing import Any, NoReturn, cast

from yt8m.deferred import without_plots_and_signals
from yt8m.errors import ConfigError, YT8MError
from yt8m.storage.credentials import REMEDY, holds_credentials

# Environment variable: the file in which the runs of a sweep's agent note that they began and that they are done.
RUNS_RECORD = "YT8M_RUNS_RECORD"

log = logging.getLogger(__name__)


def command(
    name: str, task: str, rewrite: Callable[[list[str]], list[str]] | None = None
) -> Callable[[], None]:
    """The `main` function of `python -m yt8m.NAME`.

    Args:
        name: the command, its primary configuration `conf/NAME.yaml`, and the name of its Hydra job.
        task: `package.module:function` to call with the resolved configuration, a dict; imported only when a job
            starts. What it returns goes to Hydra, and so to a sweeper.
        rewrite: turns the command's own argument syntax into Hydra overrides.
    """

    def job(config: Any) -> Any:
        return _run_job(name, task, config)

    # Hydra names the job after the module of its function.
    job.__module__ = f"yt8m.{name}"

    def main() -> None:
        for stream in (sys.stdout, sys.stderr):
            # A terminal's encoding may lack a character of a name.
            cast(TextIOWrapper, stream).reconfigure(errors="replace")
        try:
            logging.raiseExceptions = False  # a log file on a full disk must not hide the error itself
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would else print in several lines.
            sys.argv[1:] = map(_expand_home, rewrite(sys.argv[1:]) if rewrite else sys.argv[1:])
            _note("began")
            if {"--help", "-h"} & {*sys.argv[1:]}:
                print(_help(name), flush=True)
                return
            # Hydra 1.4 deprecates what Hydra 1.3 warns about if it is missing.
            warnings.filterwarnings("ignore", message="The version_base parameter is deprecated")
            with _ctrl_c_exits():
                import hydra

                from yt8m.config import CONFIG_DIR

            hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name=name)(job)()
            sys.stdout.flush()
        except KeyboardInterrupt as stop:
            end(130, str(stop) or "interrupted")
        except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
            _discard_output()
            sys.exit(1)
        except SystemExit as stop:
            if stop.code:  # None where Lightning obeyed a SIGTERM, by which a sweep stops a run early
                raise
        except Exception as error:
            described = describe(error, name)
            if described is None:
                raise
            message, code = described
            end(code, f"error: {message}")
        _note("done")

    return main


@contextmanager
def _ctrl_c_exits() -> Iterator[None]:
    """Ctrl-C ends the process at once. For imports, from which KeyboardInterrupt may come out as another error."""

    def leave(*signal_and_frame: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def describe(error: Exception, name: str) -> tuple[str, int] | None:
    """One line about an error of the command `name`, and its exit code; None for a bug, which deserves a traceback."""
    if isinstance(error, YT8MError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno:  # some of Hydra's are OSErrors, too
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; {_remedy(error)}", 1
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); lower dataset.batch_size or dataset.num_workers", 1
    # Imported after the cases above, for which there may be no file descriptor or memory left.
    from hydra.errors import HydraException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    from yt8m.config import explain
    from yt8m.errors import PACKAGES, missing

    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: expected a value, found none; see --help for an example", 2
    if isinstance(error, HydraException | OmegaConfBaseException) or "Config group override" in str(error):
        return explain(error, name), 2
    if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES:
        return missing(error.name, f"yt8m.{name}"), 2
    # What Optuna says where its sweeper looks for the best of no successful trials; of Optuna 2, and of later ones.
    if str(error) in ("Record does not exist.", "No trials are completed yet."):
        return (
            "hparams_search: expected one trial or more to succeed, all failed; see train.log in the folder of each",
            1,
        )
    return None


def _remedy(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "free space on the disk, or choose another folder"
    if error.errno == errno.EMFILE:
        return "raise the limit of open files (ulimit -n)"
    if error.errno == errno.ENOENT and not error.filename:
        return "the working directory may have been deleted; start from another one"
    return "correct that and start again"


def end(code: int, message: str) -> NoReturn:
    """End the process with one line about why."""
    print(message, file=sys.stderr)
    _exit(code)


def _exit(code: int) -> NoReturn:
    """End the process, whatever becomes of the output so far: why it ends has been said."""
    try:
        sys.stdout.flush()
    except OSError:  # such as a full disk, which may be why
        _discard_output()
    sys.exit(code)


def _discard_output() -> None:
    """Let the interpreter, when it exits, write to nowhere what standard output would not take: it would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help(name: str) -> str:
    """The help text of a command. Hydra's own `--help` would first list all groups, which takes seconds."""
    from omegaconf import OmegaConf

    from yt8m.config import CONFIG_DIR

    return str(OmegaConf.load(f"{CONFIG_DIR}/{name}.yaml").hydra.help.template)


def _run_job(name: str, task: str, config: Any) -> Any:
    """Run one Hydra job. Its errors go to the job's log; a failed job of a multirun does not stop the others."""
    from omegaconf import OmegaConf

    from yt8m.schema import validate

    result, failure = None, None
    try:
        settings = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
        validate(name, settings)
        module, _, function = task.partition(":")
        result = getattr(_import(module), function)(settings)
    except Exception as error:
        failure = describe(error, name)
        if failure is None:
            log.exception("The job failed")
            failure = f"{type(error).__name__}: {error}", 1
        else:
            log.error("error: %s", failure[0])
    # A network, its optimizer, and its trainer refer to each other: several jobs' would be in memory at once.
    gc.collect()
    if failure:
        # Not in the except block: as the context of this error, the first one would keep all that the job made.
        _fail(*failure)
    return result


def _import(module: str) -> ModuleType:
    """Import a module without garbage collection, a seventh of the time: what a module makes, it keeps."""
    if module in sys.modules:  # by an earlier job, whose objects must not be frozen
        return sys.modules[module]
    gc.disable()
    try:
        with _ctrl_c_exits(), without_plots_and_signals():
            return importlib.import_module(module)
    finally:
        gc.enable()
        gc.freeze()


def _fail(message: str, code: int) -> NoReturn:
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from hydra.types import RunMode

    if HydraConfig.get().mode == RunMode.MULTIRUN:
        job = HydraConfig.get().job
        raise CompactHydraException(f"job {job.num} ({job.override_dirname}) failed: {message}")
    if log.isEnabledFor(logging.ERROR):  # which has printed it
        _exit(code)
    end(code, f"error: {message}")


def _expand_home(argument: str) -> str:
    """`dataset.root=~/data` with the home folder in place of `~`, which Hydra takes for the removal of a key."""
    key, equals, value = argument.partition("=")
    is_address = key.lstrip("+").partition(".")[0] in ("dataset", "manifest", "output", "root", "videos")
    if is_address and holds_credentials(argument):  # before Hydra writes the argument to files
        raise ConfigError(f"{key}: {REMEDY}")
    if not equals or not value.startswith("~"):
        return argument
    expanded = os.path.expanduser(value)
    if expanded == value:
        raise ConfigError(f"{key}: expected a folder, found {value}, the home of no known user")
    return f"{key}={expanded}"


def _note(event: str) -> None:
    if RUNS_RECORD in os.environ:
        with open(os.environ[RUNS_RECORD], "a") as record:
            record.write(f"{event} {os.environ.get('WANDB_RUN_ID')} {' '.join(sys.argv[1:])}\n")
