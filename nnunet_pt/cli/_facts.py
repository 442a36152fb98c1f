"""What a program is told of a command's result: the plain values in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

_PLAIN = (str, int, float, bool, Path, type(None))
_OMITTED = object()


def facts_of(result: object) -> dict[str, Any]:
    """Names and figures of a result, by the names of its fields.

    What has a file of its own, such as plans or a fingerprint, is left out; of metrics only the means are given.

    Args:
        result: A dataclass.
    """
    if not is_dataclass(result):
        return {}
    values = {field.name: _fact(getattr(result, field.name)) for field in fields(result)}
    return {name: value for name, value in values.items() if value is not _OMITTED}


def _fact(value: object) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if isinstance(means := getattr(value, "foreground_mean", None), Mapping):
        return {str(key): mean for key, mean in means.items()}
    if hasattr(value, "to_json"):
        return _OMITTED
    if is_dataclass(value):
        return facts_of(value)
    if isinstance(value, Sequence):
        items = [_fact(item) for item in value]
        return _OMITTED if any(item is _OMITTED for item in items) else items
    return _OMITTED
