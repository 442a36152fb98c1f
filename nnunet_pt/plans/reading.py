"""Reading JSON objects into typed values, with every finding collected before an error is raised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from nnunet_pt.core.errors import PlansError

REQUIRED: Final = object()
JSON_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true/false", type(None): "null"}


class Findings:
    """Problems found in one file.

    Args:
        kind: What kind of file it is, e.g. "plans file".
        source: Where the data comes from.
    """

    def __init__(self, kind: str, source: Path | str) -> None:
        self.kind = kind
        self.source = source
        self.items: list[str] = []

    def add(self, place: str, problem: str) -> None:
        """Note a problem at a place within the file."""
        self.items.append(f"{place}: {problem}")

    def raise_if_any(self) -> None:
        """Raise one error with all problems.

        Raises:
            PlansError: If there are any.
        """
        if self.items:
            raise PlansError(
                f"{self.source} is not a usable {self.kind}.",
                found="\n            ".join(self.items),
                remedy="correct these entries, or make the file again",
            )


class ObjectReader:
    """Typed access to the entries of a JSON object; problems go to ``findings`` and a neutral value is returned.

    Args:
        data: The value that should be an object.
        findings: Where problems are noted.
        place: The object's place within the file, e.g. ``configurations.2d``; empty for the file itself.
    """

    def __init__(self, data: object, findings: Findings, place: str = "") -> None:
        self.findings = findings
        self.place = place
        self._read: set[str] = set()
        self.data: Mapping[str, Any] = {}
        if isinstance(data, Mapping):
            self.data = data
        else:
            findings.add(place or "the file", f"is {describe(data)}, expected an object {{...}}")

    def _take(self, key: str, expected: str, accepts: Callable[[Any], bool], default: object) -> Any:
        self._read.add(key)
        where = f"{self.place}.{key}" if self.place else key
        if key not in self.data:
            if default is REQUIRED:
                self.findings.add(where, f"is missing, expected {expected}")
                return None
            return default
        value = self.data[key]
        if not accepts(value):
            self.findings.add(where, f"is {describe(value)}, expected {expected}")
            return None
        return value

    def text(self, key: str, default: object = REQUIRED) -> str:
        """A text."""
        value: str = self._take(key, "a text", lambda v: isinstance(v, str), default)
        return value

    def optional_text(self, key: str) -> str | None:
        """A text, or nothing (missing or null)."""
        value: str | None = self._take(key, "a text or null", lambda v: v is None or isinstance(v, str), None)
        return value

    def flag(self, key: str) -> bool:
        """true or false."""
        value: bool = self._take(key, "true or false", lambda v: isinstance(v, bool), REQUIRED)
        return value

    def integer(self, key: str, *, minimum: int, default: object = REQUIRED) -> int:
        """A whole number of at least ``minimum``."""
        expected = f"a whole number, at least {minimum}"
        value: int | None = self._take(key, expected, lambda v: is_integer(v) and v >= minimum, default)
        return minimum if value is None else value

    def number(self, key: str) -> float:
        """A number; whole numbers stay integers."""
        value: float = self._take(key, "a number", is_number, REQUIRED)
        return value

    def mapping(self, key: str, default: object = REQUIRED) -> Mapping[str, Any]:
        """An object."""
        value: Mapping[str, Any] | None = self._take(key, "an object", lambda v: isinstance(v, Mapping), default)
        return {} if value is None else value

    def _tuple(self, key: str, expected: str, accepts: Callable[[Any], bool], default: object) -> tuple[Any, ...]:
        value = self._take(key, expected, lambda v: is_list(v) and all(accepts(e) for e in v), default)
        return () if value is None else tuple(value)

    def items(self, key: str, default: object = REQUIRED) -> tuple[Any, ...]:
        """A list of anything."""
        return self._tuple(key, "a list", lambda _: True, default)

    def texts(self, key: str, default: object = REQUIRED) -> tuple[str, ...]:
        """A list of texts."""
        return self._tuple(key, "a list of texts", lambda v: isinstance(v, str), default)

    def flags(self, key: str) -> tuple[bool, ...]:
        """A list of true/false."""
        return self._tuple(key, "a list of true/false", lambda v: isinstance(v, bool), REQUIRED)

    def integers(self, key: str, *, minimum: int, default: object = REQUIRED) -> tuple[int, ...]:
        """A list of whole numbers of at least ``minimum``."""
        expected = f"a list of whole numbers, each at least {minimum}"
        return self._tuple(key, expected, lambda v: is_integer(v) and v >= minimum, default)

    def numbers(self, key: str, *, positive: bool = False) -> tuple[float, ...]:
        """A list of numbers; whole numbers stay integers."""
        expected = "a list of numbers" + (" above 0" if positive else "")
        return self._tuple(key, expected, lambda v: is_number(v) and (v > 0 or not positive), REQUIRED)

    def optional_numbers(self, key: str) -> tuple[float | None, ...]:
        """A list of numbers above 0 and nulls; whole numbers stay integers."""
        expected = "a list of numbers above 0, or null"
        return self._tuple(key, expected, lambda v: v is None or (is_number(v) and v > 0), REQUIRED)

    def rows(self, key: str, expected: str, accepts: Callable[[Any], bool]) -> tuple[tuple[Any, ...], ...]:
        """A list with a list of three entries for each case; the first wrong cases are named."""
        value = self._take(key, f"a list with three {expected} for each case", is_list, REQUIRED) or ()
        wrong = [i for i, v in enumerate(value) if not (is_list(v) and len(v) == 3 and all(map(accepts, v)))]
        for i in wrong[:5]:
            self.findings.add(f"{key}[{i}]", f"is {describe(value[i])}, expected three {expected}")
        return () if wrong else tuple(tuple(v) for v in value)

    def rest(self, drop: Iterable[str] = ()) -> dict[str, Any]:
        """The entries that were not asked for, in their order."""
        skip = self._read | set(drop)
        return {k: v for k, v in self.data.items() if k not in skip}


def is_integer(value: object) -> bool:
    """Whether a JSON value is a whole number written as such (``true`` is none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a JSON value is a number (``true`` is none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_list(value: object) -> bool:
    """Whether a value is a list or tuple."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def describe(value: object) -> str:
    """A JSON value in few words, for messages."""
    kind = JSON_KINDS.get(type(value))
    text = repr(value)
    if kind is None or isinstance(value, bool):
        return text
    return kind if value is None or len(text) > 60 else f"{kind} {text}"


def in_order(values: Mapping[str, Any], order: Sequence[str], optional: Mapping[str, Any]) -> dict[str, Any]:
    """Arrange the entries of an object that came from a file as they were in the file.

    Args:
        values: All entries, in the standard order.
        order: Keys as they were in the file; empty for an object that did not come from a file.
        optional: Entries that are left out if they were not in the file and still have this value.
    """
    if not order:
        return dict(values)
    later = [k for k in values if k not in order and not (k in optional and values[k] == optional[k])]
    return {k: values[k] for k in [*order, *later] if k in values}
