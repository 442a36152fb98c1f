"""Numbers and their nouns in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``, ``1 class``, ``0 classes``.

    Args:
        number: How many.
        noun: What, in the singular; words may stand before it.
    """
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith(("s", "x", "tch", "sh")) else "s")
