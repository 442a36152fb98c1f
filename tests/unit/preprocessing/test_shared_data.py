"""Which plans use a data folder, and whether they mean the same data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.case import CaseSettings
from nnunet_pt.preprocessing.shared_data import differences, plans_sharing


def settings_of(dataset: Any) -> CaseSettings:
    description = DatasetDescription.load(dataset.raw / "dataset.json")
    plans = Plans.from_json(dataset.plans, "plans")
    return CaseSettings.of(plans, "3d_fullres", Labels.from_description(description), description.channel_names)


CHANGES: list[tuple[dict[str, Any], str | None]] = [
    ({"patch_size": (16, 16, 16)}, None),
    ({"batch_size": 9}, None),
    ({"spacing": (1.3, 1.2, 0.9001)}, "spacing"),
    ({"spacing": (None, None, None)}, "spacing"),
    ({"normalization_schemes": ("NoNormalization",)}, "normalisation"),
    ({"use_mask_for_norm": (False,)}, "masks of the normalisation"),
    ({"preprocessor_name": "Other"}, "preprocessor"),
]


@pytest.mark.parametrize(("changes", "expected"), CHANGES)
def test_what_makes_data_different(small: Any, changes: dict[str, Any], expected: str | None) -> None:
    settings = settings_of(small)
    other = replace(settings, configuration=replace(settings.configuration, **changes))
    assert differences(settings, other) == (() if expected is None else (expected,))


def test_intensities_matter_for_ct_only(small: Any) -> None:
    settings = settings_of(small)
    assert differences(settings, replace(settings, intensities={})) == ()
    ct = replace(settings, configuration=replace(settings.configuration, normalization_schemes=("CTNormalization",)))
    assert differences(ct, replace(ct, intensities={})) == ("intensity statistics",)


def test_whole_numbers_are_the_same_spacing(small: Any) -> None:
    settings = settings_of(small)
    ones, floats = (
        replace(settings, configuration=replace(settings.configuration, spacing=s))
        for s in ((1, 1, 2), (1.0, 1.0, 2.0))
    )
    assert differences(ones, floats) == () and ones.digest() == floats.digest()


def test_plans_that_share_a_folder_are_found(small: Any) -> None:
    settings = settings_of(small)
    small.plan("others")
    (small.preprocessed / "broken.json").write_text("{")
    (small.preprocessed / "splits_final.json").write_text("[]")
    small.plans["configurations"]["3d_fullres"]["data_identifier"] = "elsewhere"
    small.plan("elsewhere")
    found = plans_sharing("nnUNetPlans_3d_fullres", small.preprocessed, settings.labels, settings.channel_names)
    assert [name for name, _ in found] == ["nnUNetPlans", "others"]


def test_another_layout_is_kept_only_if_asked_for(three: Any) -> None:
    three.preprocess()
    three.plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 16]
    three.plan("larger")
    assert three.preprocess(plans_name="larger", any_layout=True).configurations[0].made == ()
    assert three.preprocess(any_layout=True).configurations[0].made == ()
    three.plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 2.0, 2.0]
    three.plan("larger")
    assert len(three.preprocess(plans_name="larger", any_layout=True).configurations[0].made) == 3
