"""Reading the arguments of a network from the plans; problems are noted in the reader's findings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, TypeGuard

from nnunet_pt.plans.reading import Findings, ObjectReader, describe, is_number


def suggestion(name: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` if a known name resembles ``name``, else the list of known names."""
    names = sorted(known)
    similar = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    return f" (did you mean {' or '.join(similar)}?)" if similar else f" (known: {', '.join(names)})"


def note_unknown(reader: ObjectReader, known: Iterable[str], ignored: Iterable[str] = ()) -> None:
    """Note every argument that the network does not have."""
    names = set(known)
    for key in reader.data:
        if key not in names and key not in set(ignored):
            reader.findings.add(place_of(reader, key), f"is not an argument of this network{suggestion(key, names)}")


def read_repeated(reader: ObjectReader, key: str, count: int) -> tuple[int, ...]:
    """A list of ``count`` whole numbers of at least 1; a single number stands for all of them."""
    value = reader.data.get(key)
    if _whole(value):
        return (value,) * count
    return _checked_length(reader, key, reader.integers(key, minimum=1), count) or (1,) * count


def read_per_axis(reader: ObjectReader, key: str, count: int, dimensions: int) -> tuple[tuple[int, ...], ...]:
    """A list of ``count`` sizes along each axis; single numbers stand for all axes, one single number for all."""
    value = reader.data.get(key)
    if _whole(value):
        return ((value,) * dimensions,) * count
    place = place_of(reader, key)
    entries = [_for_axes(reader.findings, f"{place}[{i}]", v, dimensions) for i, v in enumerate(reader.items(key))]
    return _checked_length(reader, key, entries, count) or ((1,) * dimensions,) * count


def _for_axes(findings: Findings, place: str, value: object, dimensions: int) -> tuple[int, ...]:
    if _whole(value):
        return (value,) * dimensions
    if isinstance(value, (list, tuple)) and len(value) == dimensions and all(_whole(v) for v in value):
        return tuple(value)
    findings.add(place, f"is {describe(value)}, expected {dimensions} whole numbers, each at least 1")
    return (1,) * dimensions


def _checked_length(reader: ObjectReader, key: str, entries: Any, count: int) -> tuple[Any, ...]:
    if entries and len(entries) != count:
        reader.findings.add(place_of(reader, key), f"has {len(entries)} entries, expected {count}")
    return tuple(entries) if len(entries) == count else ()


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def read_flag(reader: ObjectReader, key: str, *, default: bool) -> bool:
    """true or false."""
    return reader.flag(key) if key in reader.data else default


def read_rate(reader: ObjectReader, key: str) -> float:
    """A number from 0 to below 1; 0 if it is missing or null."""
    value = reader.data.get(key)
    if value is None:
        return 0.0
    if is_number(value) and 0 <= value < 1:
        return float(value)
    reader.findings.add(place_of(reader, key), f"is {describe(value)}, expected a number from 0 to below 1")
    return 0.0


def place_of(reader: ObjectReader, key: str) -> str:
    """Where an entry is, for messages."""
    return f"{reader.place}.{key}" if reader.place else key
