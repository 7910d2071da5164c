"""What a setting expects, in words, from the types of `yt8m.schema`."""

from collections.abc import Iterable
from itertools import chain
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def enumerate_or(texts: list[str]) -> str:
    """The texts as a list in a sentence: `a, b or c`."""
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def explain(section: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, str]:
    """The key at a place of `section`, dotted, and what it expects."""
    name, rest = str(loc[0]), loc[1:]
    field = next((f for n, f in section.model_fields.items() if (f.alias or n) == name), None)
    if field is None:
        return name, "no such setting"
    kinds = [field.annotation, *get_args(field.annotation)]
    inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    if inner is not None:
        parts = tuple(part for part in rest if part != inner.__name__)
        if not parts:
            return name, "a section of settings"
        key, expected = explain(inner, parts)
        return f"{name}.{key}", expected
    return name, field.description or _expected(field.annotation, field.metadata)


def _expected(kind: Any, constraints: Iterable[Any] = ()) -> str:
    """A type and its constraints in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        described = (getattr(one, "description", None) for one in arguments[1:])
        metadata = (getattr(one, "metadata", [one]) for one in arguments[1:])
        return next(filter(None, described), None) or _expected(arguments[0], [*chain(*metadata)])
    if origin in (UnionType, Union):
        text = enumerate_or([_expected(one) for one in arguments if one is not type(None)])
        return f"{text}, or null" if type(None) in arguments else text
    if origin is Literal:
        return enumerate_or([str(one) for one in arguments])
    if origin is list:
        return f"a list, each {_expected(arguments[0])}"
    if kind is bool:
        return "true or false"
    if kind is str:
        return "a non-empty text"
    number = {int: "a whole number", float: "a number"}.get(kind, str(kind))
    bounds = {
        key: getattr(one, key) for one in constraints for key in ("ge", "gt", "le") if hasattr(one, key)
    }
    if "le" in bounds:
        return f"{number} from {bounds['ge']:,} to {bounds['le']:,}"
    if "gt" in bounds:
        return f"{number} above {bounds['gt']:,}"
    return f"{number}, {bounds['ge']:,} or more" if "ge" in bounds else number
