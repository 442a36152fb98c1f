from __future__ import annotations

import json
from typing import Any

import pytest

from nnunet_pt.core.errors import PlansError, UnknownNameError
from nnunet_pt.plans.plans import Plans


def load(data: dict[str, Any]) -> Plans:
    return Plans.from_json(data, "plans.json")


def test_entries_become_typed(plans_data: dict[str, Any]) -> None:
    configuration = load(plans_data).configuration("3d_fullres")
    assert configuration.patch_size == (32, 64, 64)
    assert configuration.median_image_size_in_voxels == (30.0, 60.5, 61.0)
    assert configuration.use_mask_for_norm == (False, True)
    assert configuration.resampling_seg.kwargs["is_seg"] is True
    assert configuration.architecture.short_name == "PlainConvUNet"
    assert configuration.previous_stage is None
    assert configuration.next_stage == ()


def test_a_child_overrides_its_parents(plans_data: dict[str, Any]) -> None:
    plans_data["configurations"] |= {
        "big": {"inherits_from": "3d_fullres", "batch_size": 7},
        "bigger": {"inherits_from": "big", "patch_size": [64, 64, 64], "previous_stage": "3d_lowres"},
    }
    configuration = load(plans_data).configuration("bigger")
    assert (configuration.batch_size, configuration.patch_size) == (7, (64, 64, 64))
    assert configuration.data_identifier == "nnUNetPlans_3d_fullres"
    assert configuration.previous_stage == "3d_lowres"
    assert configuration.extra == {}


def test_inheriting_in_a_circle_is_an_error(plans_data: dict[str, Any]) -> None:
    plans_data["configurations"] |= {"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}
    with pytest.raises(PlansError, match="a -> b -> a"):
        load(plans_data).configuration("a")


def test_inheriting_from_nothing_is_an_error(plans_data: dict[str, Any]) -> None:
    plans_data["configurations"]["a"] = {"inherits_from": "3d_fulres"}
    with pytest.raises(PlansError, match=r"'a' in plans\.json inherits from one that is not there"):
        load(plans_data).configuration("a")


def test_an_unknown_configuration_comes_with_a_suggestion(plans_data: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 3d_fullres"):
        load(plans_data).configuration("3dfullres")


@pytest.mark.parametrize(("written", "read"), [("b", ("b",)), (["b", "c"], ("b", "c")), (None, ()), ([], ())])
def test_the_next_stage_may_be_one_or_several(plans_data: dict[str, Any], written: Any, read: Any) -> None:
    plans_data["configurations"]["3d_fullres"]["next_stage"] = written
    assert load(plans_data).configuration("3d_fullres").next_stage == read


def test_old_plans_describe_the_same_network(plans_data: dict[str, Any], legacy_configuration: dict[str, Any]) -> None:
    modern = load(plans_data).configuration("3d_fullres")
    plans_data["configurations"] = {"3d_fullres": legacy_configuration}
    plans = load(plans_data)
    assert plans.configuration("3d_fullres") == modern
    assert json.dumps(plans.to_json()) == json.dumps(plans_data)


def test_old_plans_inherit_too(plans_data: dict[str, Any], legacy_configuration: dict[str, Any]) -> None:
    plans_data["configurations"] = {
        "3d_fullres": legacy_configuration,
        "wide": {"inherits_from": "3d_fullres", "UNet_base_num_features": 48, "unet_max_num_features": 500},
    }
    kwargs = load(plans_data).configuration("wide").architecture.arch_kwargs
    assert kwargs["features_per_stage"] == [48, 96, 192]


def test_old_residual_plans_count_blocks(plans_data: dict[str, Any], legacy_configuration: dict[str, Any]) -> None:
    plans_data["configurations"] = {"x": legacy_configuration | {"UNet_class_name": "ResidualEncoderUNet"}}
    architecture = load(plans_data).configuration("x").architecture
    assert architecture.short_name == "ResidualEncoderUNet"
    assert architecture.arch_kwargs["n_blocks_per_stage"] == [2, 2, 2]
    assert "n_conv_per_stage" not in architecture.arch_kwargs


def test_old_two_dimensional_plans(plans_data: dict[str, Any], legacy_configuration: dict[str, Any]) -> None:
    flat = {"conv_kernel_sizes": [[3, 3]] * 3, "pool_op_kernel_sizes": [[1, 1], [2, 2], [2, 2]]}
    plans_data["configurations"] = {"2d": legacy_configuration | flat | {"patch_size": [64, 64], "spacing": [1, 1]}}
    kwargs = load(plans_data).configuration("2d").architecture.arch_kwargs
    assert kwargs["conv_op"].endswith("Conv2d")
    assert kwargs["norm_op"].endswith("InstanceNorm2d")


def test_old_plans_with_an_unknown_network(plans_data: dict[str, Any], legacy_configuration: dict[str, Any]) -> None:
    plans_data["configurations"] = {"x": legacy_configuration | {"UNet_class_name": "ResidualUNet"}}
    with pytest.raises(PlansError, match="expected one of PlainConvUNet, ResidualEncoderUNet"):
        load(plans_data).configuration("x")


def test_old_plans_whose_stages_disagree(plans_data: dict[str, Any], legacy_configuration: dict[str, Any]) -> None:
    plans_data["configurations"] = {"x": legacy_configuration | {"n_conv_per_stage_encoder": [2, 2]}}
    with pytest.raises(PlansError, match="stages in the network's entries disagree"):
        load(plans_data).configuration("x")


def test_the_old_name_of_the_intensity_statistics(plans_data: dict[str, Any]) -> None:
    old = "foreground_intensity_properties_by_modality"
    data = {old if k.startswith("foreground") else k: v for k, v in plans_data.items()}
    plans = load(data)
    assert plans.foreground_intensity_properties_per_channel["1"].mean == 100.5
    assert json.dumps(plans.to_json()) == json.dumps(data)


def test_networks_without_arguments(plans_data: dict[str, Any]) -> None:
    """As plans for pre-trained networks have them."""
    entry = {"network_class_name": "ResEncL", "arch_kwargs": None, "_kw_requires_import": None}
    plans_data["configurations"]["3d_fullres"]["architecture"] = entry
    plans = load(plans_data)
    architecture = plans.configuration("3d_fullres").architecture
    assert (architecture.short_name, architecture.arch_kwargs, architecture.requires_import) == ("ResEncL", {}, ())
    assert plans.to_json()["configurations"]["3d_fullres"]["architecture"] == entry
    del entry["arch_kwargs"]
    with pytest.raises(PlansError, match="arch_kwargs"):
        load(plans_data).configuration("3d_fullres")
