"""Cases that stand out: robust statistics that a few odd cases cannot spoil.

The score is Iglewicz and Hoaglin's modified z-score, 0.6745 (x - median) / MAD, with their limit of 3.5 ("How to
Detect and Handle Outliers", 1993). Sizes are compared as logarithms, so that half counts as much as twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

LIMIT: Final = 3.5
MIN_CASES: Final = 8
MIN_EQUAL_CASES: Final = 4
_MAD_TO_SIGMA: Final = 0.6745


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlier:
    """A case that differs from the others.

    Attributes:
        case: Which one.
        quantity: What differs.
        value: Its value.
        median: The median of all cases.
        score: Modified z-score, negative below the median; infinite if most cases are equal.
        unit: Of value and median.
        ratio: Whether value / median says more than the difference.
    """

    case: str
    quantity: str
    value: float
    median: float
    score: float
    unit: str = ""
    ratio: bool = True

    @property
    def reason(self) -> str:
        """Why the case is listed, in words."""
        usual = "what most cases have" if math.isinf(self.score) else "the median"
        if self.ratio:
            factor = self.value / self.median
            return f"{max(factor, 1 / factor):.3g} times {'larger' if factor > 1 else 'smaller'} than {usual}"
        difference = abs(self.value - self.median)
        amount = f"{difference:,.0f}" if difference >= 1000 else f"{difference:.4g}"
        return f"{amount} {'above' if self.value > self.median else 'below'} {usual}"


def find_outliers(
    values: Mapping[str, float], quantity: str, *, unit: str = "", ratio: bool = True, least: float = 0.1
) -> list[Outlier]:
    """Cases whose value is far from those of the others.

    Args:
        values: Case -> value; what is not finite is left out, as is what is not above 0 if ``ratio``.
        quantity: What the values are.
        unit: Of the values.
        ratio: Compare logarithms.
        least: Differences up to this do not matter: relative if ``ratio``, else in units of the values.

    Returns:
        Outliers, largest score first. With fewer than eight cases only those that differ from an otherwise constant
        value, with fewer than four none.
    """
    known = {case: v for case, v in values.items() if math.isfinite(v) and (v > 0 or not ratio)}
    if len(known) < MIN_EQUAL_CASES:
        return []
    data = np.array(list(known.values()), float)
    scale = np.log(data) if ratio else data
    differences = scale - np.median(scale)
    mad = float(np.median(np.abs(differences)))
    negligible = math.log1p(least) if ratio else least
    matters = np.abs(differences) > negligible
    if mad <= negligible * 1e-2:  # most cases are equal
        scores = np.where(matters, np.copysign(np.inf, differences), 0.0)
    elif len(known) < MIN_CASES:
        return []
    else:
        scores = np.where(matters, _MAD_TO_SIGMA * differences / mad, 0.0)
    found = [
        Outlier(
            case=case,
            quantity=quantity,
            value=value,
            median=float(np.median(data)),
            score=float(score),
            unit=unit,
            ratio=ratio,
        )
        for (case, value), score in zip(known.items(), scores, strict=True)
        if abs(score) > LIMIT
    ]
    return sorted(found, key=lambda outlier: -abs(outlier.score))
