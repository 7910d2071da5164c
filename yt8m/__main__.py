"""The console script: `yt8m COMMAND …` is the same as `python -m yt8m.COMMAND …`."""

import importlib
import os
import pkgutil
import sys

import yt8m


def commands() -> dict[str, str]:
    """Each command and its purpose: the packages that have a `__main__`, and the first sentence of each."""
    found = {}
    for package in pkgutil.iter_modules(yt8m.__path__):
        folder = os.path.join(yt8m.__path__[0], package.name)
        if package.ispkg and os.path.exists(os.path.join(folder, "__main__.py")):
            purpose = importlib.import_module(f"yt8m.{package.name}").__doc__ or ""
            found[package.name] = purpose.partition(":")[0]
    return found


def main() -> None:
    """Replace this process by `python -m yt8m.COMMAND`, so that both ways of starting a command are one."""
    arguments = sys.argv[1:]
    known = commands()
    if arguments[:1] == ["-sc"]:
        _complete(known)
    elif not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, known))
        rows = "\n".join(f"  {name:<{width}}  {purpose}" for name, purpose in known.items())
        print(f"yt8m COMMAND [ARGUMENTS]; yt8m COMMAND --help explains one\n\n{rows}")
    elif arguments[0] == "--version":
        print(yt8m.__version__)
    elif arguments[0] in known:
        os.execv(sys.executable, [sys.executable, "-m", f"yt8m.{arguments[0]}", *arguments[1:]])
    else:
        print(f"error: {arguments[0]}: expected one of {', '.join(known)}; see yt8m --help", file=sys.stderr)
        sys.exit(2)


def _complete(known: dict[str, str]) -> None:
    """Answer the shell's completion function, which `eval "$(yt8m -sc install=bash)"` defines, through Hydra."""
    command = "train"
    if "COMP_LINE" in os.environ:
        program, _, rest = os.environ["COMP_LINE"].lstrip().partition(" ")
        command, space, rest = rest.lstrip().partition(" ")
        if not space or command not in known:
            print(" ".join(known))
            return
        os.environ["COMP_LINE"] = f"{program} {rest}"
    sys.argv[0] = "yt8m"  # the name that the shell completes
    importlib.import_module(f"yt8m.{command}.__main__").main()


if __name__ == "__main__":
    main()
