from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.report.dataset_outliers import cases_to_draw, groups
from nnunet_pt.report.outliers import Outlier, find_outliers


def cases(*values: float) -> dict[str, float]:
    return {f"c{i}": v for i, v in enumerate(values)}


def test_the_odd_one_is_found_and_said_why() -> None:
    found = find_outliers(cases(100, 104, 98, 101, 97, 103, 99, 102, 400), "volume", unit="mL")
    assert [(o.case, o.quantity, o.value, o.unit) for o in found] == [("c8", "volume", 400, "mL")]
    assert found[0].score > 3.5
    assert found[0].reason == "3.96 times larger than the median"


def test_half_is_as_far_as_twice() -> None:
    usual = (100, 104, 98, 101, 97, 103, 99, 102)
    twice, half = (find_outliers(cases(*usual, v), "x") for v in (200, 10000 / 200))
    assert twice[0].score == pytest.approx(-half[0].score, rel=0.1)
    assert half[0].reason == "2 times smaller than the median"


def test_many_odd_cases_do_not_hide_each_other() -> None:
    values = cases(*np.linspace(95, 105, 60), *np.linspace(1000, 1100, 20))
    assert len(find_outliers(values, "x")) == 20


def test_differences_that_do_not_matter_are_not_listed() -> None:
    assert find_outliers(cases(*[1.0] * 8, 1.05), "spacing", least=0.1) == []
    assert find_outliers(cases(*[1.0] * 8, 1.000001), "spacing", least=0.1) == []
    assert len(find_outliers(cases(*[1.0] * 8, 1.2), "spacing", least=0.1)) == 1


def test_of_few_cases_only_those_that_differ_from_all_others_are_listed() -> None:
    found = find_outliers(cases(3, 3, 3, 6), "spacing")
    assert math.isinf(found[0].score)
    assert found[0].reason == "2 times larger than what most cases have"
    assert find_outliers(cases(3, 3.5, 4, 60), "spacing") == []
    assert find_outliers(cases(3, 3, 6), "spacing") == []


def test_differences_of_values_with_signs() -> None:
    found = find_outliers(cases(-3, 1, 0, 2, -1, 0, 1, -2, 5000), "median", ratio=False, least=1)
    assert [(o.case, o.reason) for o in found] == [("c8", "5,000 above the median")]


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30), st.booleans())
def test_no_values_make_it_fail(values: list[float], ratio: bool) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        found = find_outliers(cases(*values), "x", ratio=ratio)
    assert all(math.isfinite(o.value) and abs(o.score) > 3.5 for o in found)


def outlier(case: str, quantity: str, score: float = 5) -> Outlier:
    return Outlier(case=case, quantity=quantity, value=2, median=1, score=score)


def test_pictures_show_outliers_of_all_kinds_and_other_cases() -> None:
    names = [f"c{i:02d}" for i in range(40)]
    odd = [outlier(f"c{i:02d}", "size") for i in range(10, 20)] + [outlier("c30", "volume"), outlier("c31", "median")]
    chosen = cases_to_draw(names, odd, 8)
    assert len(chosen) == 8
    assert chosen == sorted(chosen)
    assert {"c10", "c30", "c31"} <= set(chosen)
    assert {"c00", "c39"} <= set(chosen)
    assert cases_to_draw(names, odd, None) == cases_to_draw(names, odd, 99) == names
    assert cases_to_draw(names, odd, 0) == []
    assert len(cases_to_draw(names, odd, 1)) == 1


def test_many_outliers_in_one_quantity_are_a_kind_of_their_own() -> None:
    odd = [outlier(f"c{i}", "size") for i in range(6)] + [outlier("c9", "volume")]
    assert set(groups(odd, 50)) == {"size"}
    assert not groups(odd, 100)
