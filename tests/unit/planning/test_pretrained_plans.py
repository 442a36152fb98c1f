"""Plans for a pre-trained network: what they take from where, and what is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import CheckpointError, PlansError, UnknownNameError, UsageError
from nnunet_pt.planning.pretrained_plans import (
    BASE_PLANS,
    Pretraining,
    adapted_spacing,
    check_network,
    data_identifier,
    find_base_plans,
    name_conflicts,
    named_base_plans,
    plans_like_dynamic,
    plans_like_nnssl,
)
from nnunet_pt.planning.summary import plan_summary
from nnunet_pt.plans.plans import Architecture, Plans, PretrainInfo

INFO = PretrainInfo(
    checkpoint_path="/elsewhere/checkpoint_final.pth",
    checkpoint_name="mae",
    key_to_encoder="encoder.stages",
    key_to_stem="encoder.stem",
    keys_to_in_proj=("encoder.stem.convs.0.conv",),
    pt_used_patchsize=(64, 64, 64),
    pt_recommended_downstream_patchsize=(32, 64, 96),
    citations=({"type": "Framework", "apa_citations": ["A"]},),
    checkpoint_sha256="0" * 64,
)
PRETRAINING = Pretraining(
    info=INFO,
    architecture=Architecture(network_class_name="ResEncL", arch_kwargs={}, requires_import=()),
    spacing=(1, 1, 1),
)


@pytest.fixture
def base(small: Any) -> Plans:
    """Plans of a dataset of three channels, one of them CT."""
    entry = small.plans["configurations"]["3d_fullres"]
    entry["normalization_schemes"] = ["ZScoreNormalization", "CTNormalization", "NoNormalization"]
    entry["use_mask_for_norm"] = [True, False, False]
    return Plans.from_json(small.plans, "base")


def test_what_is_taken_from_where(base: Plans) -> None:
    plans = plans_like_nnssl(base, PRETRAINING, mode="like_pretrained")
    configuration, before = plans.configuration("3d_fullres"), base.configuration("3d_fullres")
    assert plans.configuration_names == ("3d_fullres",) and plans.pretrain_info == INFO
    assert configuration.patch_size == (32, 64, 96) and configuration.batch_size == 2
    assert configuration.spacing == (1, 1, 1) and configuration.preprocessor_name == "DefaultPreprocessor"
    assert configuration.architecture == PRETRAINING.architecture
    assert configuration.normalization_schemes == ("ZScoreNormalization",) * 3
    assert configuration.use_mask_for_norm == (True, False, False)
    assert configuration.resampling_data == before.resampling_data and configuration.batch_dice == before.batch_dice
    assert configuration.data_identifier == "Spacing__1.00_1.00_1.00___Norm__Z_Z_Z"
    assert plans.plans_name == "ptPlans__mae____Spacing__1.00_1.00_1.00___Norm__Z_Z_Z"
    assert (plans.dataset_name, plans.transpose_forward) == (base.dataset_name, base.transpose_forward)


def test_networks_known_by_name_have_no_arguments_in_the_file(base: Plans) -> None:
    entry = plans_like_nnssl(base, PRETRAINING, mode="fixed", override_spacing=(2, 1, 1)).to_json()
    assert entry["configurations"]["3d_fullres"]["architecture"] == {
        "network_class_name": "ResEncL",
        "arch_kwargs": None,
        "_kw_requires_import": None,
    }


def test_normalisation_of_the_datasets_own_plans(base: Plans) -> None:
    plans = plans_like_nnssl(base, PRETRAINING, mode="default_nnunet", normalization="default_nnunet")
    configuration = plans.configuration("3d_fullres")
    assert configuration.normalization_schemes == base.configuration("3d_fullres").normalization_schemes
    assert configuration.data_identifier == "Spacing__1.30_1.20_0.90___Norm__Z_CT_No"
    assert plans.foreground_intensity_properties_per_channel == base.foreground_intensity_properties_per_channel


@pytest.mark.parametrize(
    ("mode", "pretraining", "expected"),
    [
        ("default_nnunet", (1, 1, 1), (1.3, 1.2, 0.9)),
        ("fixed", (1, 1, 1), (3.0, 2.0, 1.0)),
        ("like_pretrained", (1.25, 0.9, 0.8), (1.25, 0.9, 0.8)),
        ("like_pretrained", None, (1.3, 1.2, 0.9)),
        ("no_resample", (1, 1, 1), (None, None, None)),
    ],
)
def test_spacing_of_each_mode(mode: Any, pretraining: Any, expected: Any) -> None:
    assert adapted_spacing(mode, (1.3, 1.2, 0.9), pretraining, (3.0, 2.0, 1.0)) == expected


@pytest.mark.parametrize("spacing", [None, (), (1.0, 1.0), (1.0, 1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, -1.0, 1.0)])
@pytest.mark.parametrize("wrong", [None, float("nan"), float("inf")])
def test_fixed_needs_three_positive_numbers(spacing: Any, wrong: float | None) -> None:
    if wrong is not None:
        spacing = (1.0, wrong, 1.0)
    with pytest.raises(UsageError, match="fixed needs a spacing") as caught:
        adapted_spacing("fixed", (1, 1, 1), None, spacing)
    assert "-os" in str(caught.value) and "three positive numbers" in str(caught.value)


def test_unknown_mode() -> None:
    with pytest.raises(UsageError, match="like_pretrained"):
        adapted_spacing("foo", (1, 1, 1), None, None)  # type: ignore[arg-type]


def test_names_of_data_folders() -> None:
    schemes = ("ZScoreNormalization", "CTNormalization", "RescaleTo01Normalization", "RGBTo01Normalization")
    assert data_identifier((1, 0.999, 12.345), schemes) == "Spacing__1.00_1.00_12.35___Norm__Z_CT_01_RGB"
    assert data_identifier((None, None, None), schemes[:1]) == "Spacing__None_None_None___Norm__Z"


def test_base_plans_are_searched_in_nnunets_order(small: Any) -> None:
    for name in BASE_PLANS[:0:-1]:
        small.plan(name)
    (small.preprocessed / "nnUNetPlans.json").unlink()
    for name in BASE_PLANS[1:]:
        assert find_base_plans(small.preprocessed).plans_name == name
        (small.preprocessed / f"{name}.json").unlink()
    small.plan("myPlans")
    with pytest.raises(PlansError, match="no plans to start from") as caught:
        find_base_plans(small.preprocessed)
    assert "nnUNetv2_plan_and_preprocess -d 7 --no_pp" in str(caught.value) and "myPlans" in str(caught.value)


def test_missing_plans_of_a_preset_name_its_planner(small: Any) -> None:
    with pytest.raises(PlansError, match="-pl nnUNetPlannerResEncL --no_pp"):
        named_base_plans(small.preprocessed, "nnUNetResEncUNetLPlans")


def test_two_dimensional_datasets_are_refused(small: Any) -> None:
    del small.plans["configurations"]["3d_fullres"]
    small.plan()
    with pytest.raises(PlansError, match="three-dimensional"):
        find_base_plans(small.preprocessed)


def test_dynamic_keeps_everything(base: Plans) -> None:
    plans = plans_like_dynamic(base, PRETRAINING)
    assert plans.plans_name == "ptPlans_dynamic__mae" and plans.configuration_names == ("3d_fullres",)
    assert plans.configuration("3d_fullres") == base.configuration("3d_fullres")
    info = plans.to_json()["pretrain_info"]
    assert info["pt_architecture_kwargs"] == {} and info["checkpoint_sha256"] == "0" * 64


def test_inherited_and_old_entries_are_written_out(small: Any) -> None:
    configurations = small.plans["configurations"]
    configurations["base"] = configurations.pop("3d_fullres")
    configurations["3d_fullres"] = {"inherits_from": "base", "batch_size": 7, "next_stage": "3d_cascade_fullres"}
    plans = plans_like_dynamic(Plans.from_json(small.plans, "base"), PRETRAINING)
    entries = plans.configurations["3d_fullres"]
    assert entries["batch_size"] == 7 and "spacing" in entries
    assert "inherits_from" not in entries and "next_stage" not in entries


@pytest.mark.parametrize(
    ("name", "patch", "text"),
    [
        ("ResEncL", (32, 48, 32), "does not divide"),
        ("PrimusM", (32, 36, 32), "36"),
        ("ResEncL", (32, 32), "three numbers"),
        ("ResEncL", (), "three numbers"),
        ("ResidualEncoderUNet", (32, 32, 32), "n_stages"),
    ],
)
def test_patch_size_must_fit_the_network(base: Plans, name: str, patch: tuple[int, ...], text: str) -> None:
    pretraining = replace(
        PRETRAINING,
        architecture=replace(PRETRAINING.architecture, network_class_name=name),
        info=replace(INFO, pt_recommended_downstream_patchsize=patch),
    )
    with pytest.raises(CheckpointError, match=text) as caught:
        plans_like_nnssl(base, pretraining, mode="like_pretrained")
    assert "/elsewhere/checkpoint_final.pth" in str(caught.value)


def test_unknown_network_lists_the_known() -> None:
    pretraining = replace(PRETRAINING, architecture=replace(PRETRAINING.architecture, network_class_name="ResEncXXL"))
    with pytest.raises(UnknownNameError, match="PrimusM"):
        check_network(pretraining, (32, 32, 32), channels=1)


def write_plans(folder: Path, plans: Plans, **changes: Any) -> None:
    data = copy.deepcopy(plans.to_json())
    data["pretrain_info"] |= changes
    (folder / f"{plans.plans_name}.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("changes", "conflict"),
    [
        ({}, False),
        ({"checkpoint_path": "/moved/a.pth"}, False),
        ({"checkpoint_sha256": "1" * 64}, True),
        ({"checkpoint_sha256": None}, False),  # written by nnU-Net
        ({"checkpoint_sha256": None, "checkpoint_path": "/another/a.pth"}, True),
        ({"checkpoint_sha256": "1" * 64, "checkpoint_name": "mae____x"}, False),
    ],
)
def test_names_belong_to_one_checkpoint(base: Plans, tmp_path: Path, changes: dict[str, Any], conflict: bool) -> None:
    write_plans(tmp_path, plans_like_nnssl(base, PRETRAINING, mode="no_resample"), **changes)
    (tmp_path / "ptPlans__mae____damaged.json").write_text("{")
    assert bool(name_conflicts(tmp_path, "ptPlans__mae____*.json", INFO)) == conflict


def test_the_table_of_plans_shows_spacings_that_are_left_to_the_cases(base: Plans) -> None:
    assert "own x own x own" in plan_summary(plans_like_nnssl(base, PRETRAINING, mode="no_resample"))
