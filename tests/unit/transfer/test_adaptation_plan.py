"""nnssl's description of a pre-trained network, in all the forms that exist."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_pt.core.errors import CheckpointError, UnknownNameError
from nnunet_pt.transfer.adaptation_plan import (
    PRIMUS_KEYS,
    RESIDUAL_KEYS,
    AdaptationPlan,
    find_beside,
    load,
    usual_keys,
)


def full_plan() -> dict[str, Any]:
    return {
        "architecture_plans": {
            "arch_class_name": "ResidualEncoderUNet",
            "arch_kwargs": {"n_stages": 2, "strides": ((1, 1), (2, 2))},
            "arch_kwargs_requiring_import": ["conv_op"],
        },
        "pretrain_plan": {
            "configurations": {
                "onemmiso": {"patch_size": (64, 64, 64), "spacing": [1, 1, 1], "spacing_style": "onemmiso"},
                "other": {"patch_size": [8, 8, 8]},
            }
        },
        "pretrain_num_input_channels": 2,
        "recommended_downstream_patchsize": (96, 96, 96),
        "key_to_encoder": "net.encoder.stages",
        "key_to_stem": "net.encoder.stem",
        "keys_to_in_proj": ("net.encoder.stem.convs.0.conv",),
        "key_to_lpe": None,
    }


def test_full_plan() -> None:
    plan = AdaptationPlan.from_json(full_plan(), "a.pth")
    assert plan.architecture.short_name == "ResidualEncoderUNet"
    assert plan.architecture.arch_kwargs == {"n_stages": 2, "strides": [[1, 1], [2, 2]]}
    assert plan.architecture.requires_import == ("conv_op",)
    assert (plan.key_to_encoder, plan.key_to_stem) == ("net.encoder.stages", "net.encoder.stem")
    assert plan.keys_to_in_proj == ("net.encoder.stem.convs.0.conv",)
    assert plan.key_to_lpe is None
    assert (plan.patch_size, plan.position_patch_size) == ((64, 64, 64), (64, 64, 64))
    assert (plan.recommended_patch_size, plan.spacing, plan.num_input_channels) == ((96, 96, 96), (1, 1, 1), 2)
    assert json.loads(json.dumps(plan.to_json())) == json.loads(json.dumps(full_plan()))
    plan.check_architecture()


def test_tuples_and_lists_are_the_same() -> None:
    lists = json.loads(json.dumps(full_plan()))
    assert AdaptationPlan.from_json(lists, "a") == AdaptationPlan.from_json(full_plan(), "b")


@pytest.mark.parametrize(
    ("architecture", "keys"),
    [("ResEncL", RESIDUAL_KEYS), ("PrimusM", PRIMUS_KEYS), ("PlainConvUNet", usual_keys("PlainConvUNet"))],
)
def test_minimal_plan(architecture: str, keys: object) -> None:
    plan = AdaptationPlan.from_json({"architecture_plans": {"arch_class_name": architecture}}, "a")
    assert plan.keys == keys
    assert (plan.patch_size, plan.spacing, plan.recommended_patch_size) == (None, None, (160, 160, 160))
    assert plan.architecture.arch_kwargs == {}
    plan.check_architecture()


def test_early_plan() -> None:
    plan = AdaptationPlan.from_json(
        {
            "architecture_name": "ResEncL",
            "num_input_channels": 3,
            "input_patch_size": [160, 160, 160],
            "state_dict_key_to_encoder": "encoder.stages",
            "state_dict_key_to_stem": "encoder.stem",
        },
        "a",
    )
    assert (plan.architecture.short_name, plan.num_input_channels) == ("ResEncL", 3)
    assert (plan.patch_size, plan.keys) == ((160, 160, 160), RESIDUAL_KEYS)


def test_one_name_for_the_input_projection_and_another_patch_size() -> None:
    data = full_plan()
    data["key_to_in_proj"] = data.pop("keys_to_in_proj")[0]
    plan = AdaptationPlan.from_json({**data, "pretrain_patch_size": [32, 32, 32]}, "a")
    assert plan.keys_to_in_proj == ("net.encoder.stem.convs.0.conv",)
    assert (plan.patch_size, plan.position_patch_size) == ((64, 64, 64), (32, 32, 32))


@pytest.mark.parametrize("spacing", [None, [None, None, None]])
def test_no_resampling(spacing: object) -> None:
    data = full_plan()
    data["pretrain_plan"]["configurations"]["onemmiso"] |= {"spacing": spacing, "spacing_style": "noresample"}
    plan = AdaptationPlan.from_json(data, "a")
    assert (plan.spacing, plan.spacing_style) == (None, "noresample")


def test_everything_wrong_is_listed() -> None:
    wrong = {
        "architecture_plans": {"arch_kwargs": [1]},
        "pretrain_plan": {"configurations": {"x": {"patch_size": [64, "a"], "spacing": [1, -1]}}},
        "pretrain_num_input_channels": 0,
        "key_to_encoder": 3,
        "keys_to_in_proj": [1],
    }
    with pytest.raises(CheckpointError) as error:
        AdaptationPlan.from_json(wrong, "some/file.json")
    words = ("arch_class_name", "arch_kwargs", "patch_size", "spacing", "num_input", "key_to_encoder", "in_proj")
    assert all(word in str(error.value) for word in ("some/file.json", *words))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
PLACES = [(), ("architecture_plans",), ("pretrain_plan",), ("pretrain_plan", "configurations", "onemmiso")]


@settings(max_examples=150, deadline=None)
@given(place=st.sampled_from(PLACES), data=st.data())
def test_any_value_anywhere_is_read_or_refused(place: tuple[str, ...], data: st.DataObject) -> None:
    plan = {**full_plan(), "pretrain_patch_size": [1, 1, 1], "citations": []}
    entries: dict[str, Any] = plan
    for key in place:
        entries = entries[key]
    entries |= {"spacing": [1], "normalization_schemes": ["Z"]} if len(place) == 3 else {}
    entries[data.draw(st.sampled_from(sorted(entries)))] = data.draw(JSON)
    with contextlib.suppress(CheckpointError):
        read = AdaptationPlan.from_json(plan, "a")
        assert isinstance(read.citations, tuple) and isinstance(read.key_to_encoder, str)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_not_an_object(data: object) -> None:
    with pytest.raises(CheckpointError, match="not a usable adaptation plan"):
        AdaptationPlan.from_json(data, "a")


@pytest.mark.parametrize("name", ["NoSkipResEncL", "PrimusQ", "torch.nn.Linear"])
def test_unknown_architecture_lists_the_known_ones(name: str) -> None:
    plan = AdaptationPlan.from_json({"architecture_plans": {"arch_class_name": name}}, "a.pth")
    with pytest.raises(UnknownNameError) as error:
        plan.check_architecture()
    assert all(known in str(error.value) for known in ("ResEncL", "PrimusM", "PlainConvUNet", "a.pth"))


def test_file_beside_or_above(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model" / "fold_all" / "checkpoint_final.pth"
    checkpoint.parent.mkdir(parents=True)
    assert find_beside(checkpoint) is None
    above = tmp_path / "model" / "adaptation_plan.json"
    above.write_text(json.dumps(full_plan()))
    assert find_beside(checkpoint) == above
    beside = checkpoint.parent / "adaptation_plan.json"
    beside.write_text(json.dumps({**full_plan(), "pretrain_num_input_channels": 5}))
    found = find_beside(checkpoint)
    assert found == beside and load(found).num_input_channels == 5
