"""Every error type of the package, and the exit code that each one means for a command.

The message of each is one line: what is wrong and where (a config key, or file @ byte offset), what was expected,
what was found, and what to do. Commands print it without a traceback.
"""

import importlib.util


class YT8MError(Exception):
    """Base class: the work failed."""

    exit_code = 1


class ConfigError(YT8MError, ValueError):
    """The call was wrong: the configuration asks for something that cannot be done."""

    exit_code = 2


class DataError(YT8MError, ValueError):
    """Damaged data, or data that do not fit the configuration; names the file and the byte offset."""


class ChangedError(DataError):
    """A shard that changed after it was indexed. Never skipped, because all of its records would be lost."""


class ReaderError(YT8MError, RuntimeError):
    """A reader process died, or failed for a reason other than the data."""


class DivergedError(YT8MError, RuntimeError):
    """The loss became NaN or infinite."""


class RankError(YT8MError, RuntimeError):
    """Another process of a run on several devices died."""


class FetchError(YT8MError, RuntimeError):
    """A file could not be downloaded."""


class WriteError(YT8MError, RuntimeError):
    """A file could not be written; an earlier version of it is untouched."""


#: Optional packages by importable name, and the extra of the installation that brings each.
PACKAGES = {
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "matplotlib": "plots",
    "pyarrow": "parquet",
    "av": "extract",
    "pandas": "pandas",
    "starlette": "demo",
    "uvicorn": "demo",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
}


def is_installed(package: str) -> bool:
    """Whether a package can be imported; does not import it."""
    return importlib.util.find_spec(package) is not None


def require(package: str, needed_by: str) -> None:
    """Raise ConfigError with the pip command if an optional package is missing.

    Args:
        package: importable name, a key of `PACKAGES`.
        needed_by: what the user set, such as `logger=wandb`.
    """
    if not is_installed(package):
        raise ConfigError(missing(package, needed_by))


def missing(package: str, needed_by: str) -> str:
    """One line about a missing package, with the pip command."""
    return f"{needed_by}: expected the package {package}, found none; pip install 'yt8m[{PACKAGES[package]}]'"
