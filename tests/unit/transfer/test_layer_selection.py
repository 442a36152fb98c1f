"""Choosing layers by the beginning of their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.core.errors import UsageError
from nnunet_pt.transfer.layer_selection import select

NAMES = [
    "encoder.stem.convs.0.conv.weight",
    *(f"encoder.stages.{i}.blocks.{j}.conv1.conv.weight" for i in range(12) for j in range(2)),
    "decoder.stages.0.convs.0.conv.weight",
    "decoder.transpconvs.0.weight",
    "decoder.seg_layers.0.bias",
]


def stages(chosen: set[str]) -> set[int]:
    return {int(n.split(".")[2]) for n in chosen if n.startswith("encoder.stages.")}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder.stages.1", {1}),
        ("encoder.stages.0-2", {0, 1, 2}),
        ("encoder.stages.9-11", {9, 10, 11}),
        ("encoder", set(range(12))),
        ("encoder.stages.", set(range(12))),
        ("decoder", set()),
    ],
)
def test_parts_end_at_dots(pattern: str, expected: set[int]) -> None:
    assert stages(select(NAMES, [pattern])) == expected


def test_several_patterns_and_ranges_inside() -> None:
    chosen = select(NAMES, ["encoder.stages.2-3.blocks.1", "decoder.transpconvs"])
    assert chosen == {
        "encoder.stages.2.blocks.1.conv1.conv.weight",
        "encoder.stages.3.blocks.1.conv1.conv.weight",
        "decoder.transpconvs.0.weight",
    }
    assert select(NAMES, []) == set()


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("encodr", "encoder"),
        ("encoder.stage.0", "encoder.stages.0"),
        ("stem", "encoder.stem"),
        ("encoder.stages.20-22", "encoder.stages.2"),
        ("xyz", "decoder.seg_layers"),
    ],
)
def test_what_matches_nothing_lists_what_could_be_meant(pattern: str, meant: str) -> None:
    with pytest.raises(UsageError) as error:
        select(NAMES, ["decoder", pattern], option="-freeze")
    text = str(error.value)
    assert repr(pattern) in text and "-freeze" in text
    assert meant in text.split("expected:")[1]


def test_every_pattern_without_a_match_is_named() -> None:
    with pytest.raises(UsageError, match=r"'ab' and 'cd'"):
        select(NAMES, ["ab", "encoder", "cd"])


@given(st.sampled_from(NAMES), st.integers(1, 6))
def test_every_beginning_of_a_name_chooses_it(name: str, length: int) -> None:
    assert name in select(NAMES, [".".join(name.split(".")[:length])])
