"""Entries of plans that belong to pre-trained networks: spacing left to each case, checkpoint, citations."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.plans.plans import Plans
from nnunet_pt.plans.pretrain_info import citation_lines


@pytest.mark.parametrize(
    ("planned", "expected"),
    [
        ([3.0, 1, 1.0], (3.0, 1.0, 1.0)),
        ([None, None, None], (5.0, 0.7, 0.6)),
        ([None, 1, None], (5.0, 1.0, 0.6)),
        ([0.9, 0.8], (5.0, 0.9, 0.8)),
        ([None, None], (5.0, 0.7, 0.6)),
    ],
)
def test_spacing_of_a_case(plans_data: dict[str, Any], planned: Any, expected: Any) -> None:
    plans_data["configurations"]["3d_fullres"]["spacing"] = planned
    configuration = Plans.from_json(plans_data, "test").configuration("3d_fullres")
    assert configuration.spacing == tuple(planned)
    assert configuration.spacing_for((5.0, 0.7, 0.6)) == expected


@pytest.mark.parametrize("wrong", [[0, 1, 1], [-1.0, None, None], ["1", 1, 1], [True, 1, 1]])
def test_other_spacings_are_refused(plans_data: dict[str, Any], wrong: Any) -> None:
    plans_data["configurations"]["3d_fullres"]["spacing"] = wrong
    with pytest.raises(NnunetError, match="above 0, or null"):
        Plans.from_json(plans_data, "test").configuration("3d_fullres")


def test_entries_are_written_out(plans_data: dict[str, Any], legacy_configuration: dict[str, Any]) -> None:
    configurations = plans_data["configurations"]
    parent = dict(configurations["3d_fullres"])
    configurations["child"] = {"inherits_from": "3d_fullres", "batch_size": 9}
    configurations["old"] = legacy_configuration
    plans = Plans.from_json(plans_data, "test")
    assert plans.entries("child") == parent | {"batch_size": 9}
    assert "architecture" in plans.entries("old") and "UNet_class_name" not in plans.entries("old")
    with pytest.raises(NnunetError, match="child"):
        plans.entries("chidl")


def test_checksum_of_the_checkpoint(plans_data: dict[str, Any]) -> None:
    plans_data["pretrain_info"] = {"checkpoint_path": "a.pth", "checkpoint_sha256": "ab" * 32}
    plans = Plans.from_json(plans_data, "test")
    assert plans.pretrain_info is not None and plans.pretrain_info.checkpoint_sha256 == "ab" * 32
    assert plans.to_json()["pretrain_info"] == plans_data["pretrain_info"]
    assert plans.pretrain_info.extra == {}


def test_citations_are_sorted_by_what_they_are_for() -> None:
    citations = [
        {"type": "Framework", "name": "nnssl", "apa_citations": ["F1", "F2"]},
        {"type": "Architecture", "name": "ResEncL", "bibtex_citations": ["@a{}"]},
        {"type": "Data", "name": "without text"},
        {"apa_citations": "a single text"},
        "only a text",
    ]
    assert citation_lines(citations) == [
        "a single text",
        "only a text",
        "Architecture: ResEncL: @a{}",
        "Data: without text",
        "Framework: nnssl: F1",
        "Framework: nnssl: F2",
    ]
