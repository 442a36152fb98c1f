"""Whether the values that a program gives are of the types that are documented; what would follow is hard to read."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nnunet_pt.core.errors import UsageError


def check_types(owner: str, values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Refuse values of wrong types. Which words and numbers there are is said where they are used.

    Args:
        owner: What the values were given to.
        values: Name -> value.
        hints: Name -> type.

    Raises:
        UsageError: Names all of them.
    """
    findings = [f"{n}={v!r}, expected {_text(hints[n])}" for n, v in values.items() if not _fits(v, hints[n])]
    if findings:
        raise UsageError(f"{owner} was called with wrong types.", found="\n            ".join(findings))


def check_fields(request: Any) -> None:
    """The same for the fields of a dataclass."""
    hints = get_type_hints(type(request))
    check_types(type(request).__name__, {name: getattr(request, name) for name in hints}, hints)


def _fits(value: Any, hint: Any, *, exact: bool = False) -> bool:
    """Whether a value is of a type; numbers of other packages are welcome, too."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one, exact=int in inner) for one in inner)
    if origin is Literal:  # "0" is no number, but "all" may stand for one
        return value in inner if exact else isinstance(value, str)
    if origin in (Sequence, tuple):
        return isinstance(value, Collection) and not isinstance(value, str) and all(_fits(v, inner[0]) for v in value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    kind = origin or hint
    return getattr(kind, "_is_protocol", False) or isinstance(value, kind)


def _text(hint: Any) -> str:
    return " or ".join(dict.fromkeys(_texts(hint)))


def _texts(hint: Any) -> Iterator[str]:
    """The words of a Python programmer for a type and the parts of a union."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for one in inner:
            yield from _texts(one)
    elif origin is Literal:
        yield from map(repr, inner)
    elif origin in (Sequence, tuple):
        yield f"a {'list' if origin is Sequence else 'tuple'} of {_text(inner[0])}"
    else:
        yield "None" if hint is type(None) else "pathlib.Path" if hint is Path else (origin or hint).__name__
