from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import PlansError, StorageError
from nnunet_pt.plans.fingerprint import Fingerprint
from nnunet_pt.plans.plans import Plans


def message(data: Any, configuration: str | None = None) -> str:
    with pytest.raises(PlansError) as caught:
        plans = Plans.from_json(data, "some/plans.json")
        plans.configuration(configuration or "3d_fullres")
    return str(caught.value)


def test_all_findings_of_the_file_are_told_at_once(plans_data: dict[str, Any]) -> None:
    del plans_data["plans_name"]
    plans_data["image_reader_writer"] = 3
    plans_data["transpose_forward"] = [0, 1, "2"]
    plans_data["configurations"]["2d"] = None
    plans_data["foreground_intensity_properties_per_channel"]["1"]["std"] = True
    text = message(plans_data)
    assert "some/plans.json is not a usable plans file" in text
    assert "plans_name: is missing, expected a text" in text
    assert "image_reader_writer: is 3, expected a text" in text
    assert "transpose_forward: is a list" in text
    assert "configurations.2d: is null, expected an object" in text
    assert "foreground_intensity_properties_per_channel.1.std: is True, expected a number" in text


def test_all_findings_of_a_configuration_are_told_at_once(plans_data: dict[str, Any]) -> None:
    entries = plans_data["configurations"]["3d_fullres"]
    entries |= {"batch_size": 0, "spacing": [1, 0, 1], "patch_size": [32.5, 64, 64], "batch_dice": "no"}
    del entries["data_identifier"], entries["architecture"]["network_class_name"]
    text = message(plans_data)
    for place in ("batch_size", "spacing", "patch_size", "batch_dice", "data_identifier"):
        assert f"configurations.3d_fullres.{place}: is" in text
    assert "configurations.3d_fullres.architecture.network_class_name: is missing" in text


def test_a_damaged_configuration_does_not_stop_the_others(plans_data: dict[str, Any]) -> None:
    plans_data["configurations"]["own"] = {"batch_size": "many"}
    assert Plans.from_json(plans_data, "x").configuration("3d_fullres").batch_size == 2
    assert "configurations.own.batch_size" in message(plans_data, "own")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("transpose_forward", [0, 1, 1], "expected 0, 1, 2 in some order"),
        ("transpose_backward", [0, 1, 2], "expected the inverse of"),
    ],
)
def test_axes_must_be_a_permutation(plans_data: dict[str, Any], key: str, value: Any, text: str) -> None:
    plans_data[key] = value
    assert text in message(plans_data)


def test_every_channel_needs_both_entries_of_its_normalisation(plans_data: dict[str, Any]) -> None:
    plans_data["configurations"]["3d_fullres"]["use_mask_for_norm"] = [False]
    assert "use_mask_for_norm: has 1 entries, but normalization_schemes has 2" in message(plans_data)


def test_four_dimensions_are_too_many(plans_data: dict[str, Any]) -> None:
    plans_data["configurations"]["3d_fullres"]["patch_size"] = [4, 4, 4, 4]
    assert "patch_size: has 4 numbers, expected 2 or 3" in message(plans_data)


@pytest.mark.parametrize("data", [[], "plans", None, 3])
def test_something_else_than_an_object(data: Any) -> None:
    assert "the file: is" in message(data)


def test_a_missing_file_names_those_that_are_there(tmp_path: Path) -> None:
    for name in ("nnUNetPlans", "dataset", "dataset_fingerprint", "splits_final"):
        (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(PlansError, match="these plans: nnUNetPlans\n"):
        Plans.load(tmp_path / "nnUNetPlan.json")


def test_a_missing_file_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(PlansError, match="make it with  nnUNetv2_plan_experiment"):
        Plans.load(tmp_path / "nnUNetPlans.json")


def test_a_truncated_file(tmp_path: Path, plans_data: dict[str, Any]) -> None:
    path = tmp_path / "nnUNetPlans.json"
    Plans.from_json(plans_data, "x").save(path)
    path.write_text(path.read_text()[:400])
    with pytest.raises(StorageError, match="is not valid JSON"):
        Plans.load(path)


def test_a_missing_fingerprint_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(PlansError, match="nnUNetv2_extract_fingerprint -d 17"):
        Fingerprint.load(tmp_path / "Dataset017_X" / "dataset_fingerprint.json")


def test_all_findings_of_a_fingerprint_are_told_at_once() -> None:
    data = {
        "spacings": [[1, 1, 1], [1, 1], [1, -1, 1]],
        "shapes_after_crop": [[10, 10, 10.5]],
        "foreground_intensity_properties_per_channel": {"0": {"max": 1}},
    }
    with pytest.raises(PlansError) as caught:
        Fingerprint.from_json(data, "f.json")
    text = str(caught.value)
    assert "spacings[1]: is a list [1, 1], expected three positive numbers" in text
    assert "spacings[2]" in text
    assert "spacings[0]" not in text
    assert "shapes_after_crop[0]" in text
    assert "median_relative_size_after_cropping: is missing" in text
    assert "foreground_intensity_properties_per_channel.0.mean: is missing" in text


def test_spacings_and_shapes_belong_together() -> None:
    data = {
        "spacings": [[1, 1, 1], [1, 1, 1]],
        "shapes_after_crop": [[10, 10, 10]],
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {},
    }
    with pytest.raises(PlansError, match="has 1 cases, but spacings has 2"):
        Fingerprint.from_json(data, "f.json")
