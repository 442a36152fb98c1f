"""Names that users type, mapped to objects.

Entries may be given as ``"module:attribute"`` and are imported when they are asked for, so that a registry of heavy
things stays cheap to import. Nothing that is not in the table is ever imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from nnunet_pt.core.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """A fixed table of names.

    Args:
        kind: What the names name; used in error messages ("planner", "image reader/writer").
        entries: Name to object, or to ``"package.module:attribute"`` for an import on first use.
    """

    def __init__(self, kind: str, entries: Mapping[str, T | str]) -> None:
        self.kind = kind
        self._entries: dict[str, T | str] = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        """The object of that name.

        Raises:
            UnknownNameError: With the most similar names.
        """
        if name not in self._entries:
            raise UnknownNameError.of(self.kind, name, self._entries)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = cast(T, getattr(importlib.import_module(module), attribute))
            self._entries[name] = entry
        return entry
