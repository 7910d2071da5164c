"""Optional packages and the extras of the installation that bring them."""

import importlib.util

from yt8m.errors import ConfigError

#: Extra that brings an importable package.
PACKAGES = {
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "matplotlib": "plots",
    "pyarrow": "parquet",
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
