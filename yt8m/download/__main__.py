"""Download a partition of YouTube-8M: `python -m yt8m.download partition=2/frame/train root=~/data/yt8m`."""

import re

from yt8m.cli import command


def as_typed(argument: str) -> str:
    """`shard=1,100` and `root=~/data`, quoted so that Hydra takes them literally.

    To its grammar a comma means a sweep, and `~` the removal of a key.
    """
    match = re.fullmatch(r"(shard|root)=(?!null$)([^'\"]*[^'\"\\])", argument)
    return f"{match[1]}='{match[2]}'" if match else argument


def as_overrides(arguments: list[str]) -> list[str]:
    """The arguments, each `as_typed`."""
    return [as_typed(argument) for argument in arguments]


main = command("download", "yt8m.download.download:download", rewrite=as_overrides)

if __name__ == "__main__":
    main()
