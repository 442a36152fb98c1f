"""Choosing layers by name: ``encoder``, ``encoder.stages.0-2``, ``decoder.transpconvs``.

One rule for everything that names layers on the command line: what to transfer, what to freeze, what learns slower.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from nnunet_pt.core.errors import UsageError

_RANGE = re.compile(r"(\d+)-(\d+)")
_SUGGESTIONS = 6


def select(names: Iterable[str], patterns: Sequence[str], *, option: str = "the choice of layers") -> set[str]:
    """The names that lie in one of the chosen parts.

    A pattern is the beginning of a name up to one of its dots, or the whole name; a number in it may be a range, both
    ends included. ``encoder.stages.1`` does not mean ``encoder.stages.10``.

    Args:
        names: Names of tensors or modules.
        patterns: What to choose.
        option: The option that gave the patterns, for the error message.

    Raises:
        UsageError: If a pattern matches nothing; names what could be meant.
    """
    everything = list(names)
    chosen: set[str] = set()
    nothing: list[str] = []
    for pattern in patterns:
        matching = {name for name in everything if _matches(pattern, name)}
        chosen |= matching
        if not matching:
            nothing.append(pattern)
    if nothing:
        meant = {p: _suggestions(p, everything) for p in nothing}
        raise UsageError(
            f"No layer matches {' and '.join(map(repr, nothing))} in {option}.",
            expected="parts of the network, for example "
            + ", ".join(dict.fromkeys(n for similar in meant.values() for n in similar)),
            remedy="give the beginning of a layer's name up to a dot; ranges are written encoder.stages.0-2",
        )
    return chosen


def _matches(pattern: str, name: str) -> bool:
    wanted, parts = pattern.strip(".").split("."), name.split(".")
    return len(wanted) <= len(parts) and all(_part_matches(w, p) for w, p in zip(wanted, parts, strict=False))


def _part_matches(wanted: str, part: str) -> bool:
    bounds = _RANGE.fullmatch(wanted)
    if bounds is None or not part.isdecimal():
        return wanted == part
    return int(bounds[1]) <= int(part) <= int(bounds[2])


def _suggestions(pattern: str, names: Iterable[str]) -> list[str]:
    """Parts of the network that resemble a pattern; its main parts if nothing does."""
    depth = pattern.count(".") + 1
    parts: dict[str, None] = {}
    for name in names:
        pieces = name.split(".")
        for length in range(1, min(len(pieces), max(depth, 3)) + 1):
            parts[".".join(pieces[:length])] = None
    # the numbers are what people get wrong last, so words are compared first
    similar = difflib.get_close_matches(pattern, list(parts), n=_SUGGESTIONS, cutoff=0.6)
    last = pattern.rpartition(".")[2]
    ending = [p for p in parts if p.rpartition(".")[2] == last][:_SUGGESTIONS]
    main = [p for p in parts if p.count(".") <= 1 and not p.endswith((".weight", ".bias"))]
    return list(dict.fromkeys([*similar, *ending]))[:_SUGGESTIONS] or main[:12]
