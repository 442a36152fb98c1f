from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_pt.plans.fingerprint import Fingerprint, IntensityProperties
from nnunet_pt.plans.plans import Plans, PretrainInfo

numbers = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False))
positive = st.one_of(st.integers(1, 2000), st.floats(1e-3, 1e3))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
unknown = st.dictionaries(st.from_regex(r"own_[a-z]{1,6}", fullmatch=True), values, max_size=3)


def exact(data: Any) -> str:
    """A text that differs if anything does: keys, their order, values, number types."""
    return json.dumps(data)


def test_recorded_plans_come_back_exactly(golden_plans: Path) -> None:
    data = json.loads(golden_plans.read_text())
    assert exact(Plans.from_json(data, golden_plans).to_json()) == exact(data)


def test_recorded_configurations_are_understood(golden_plans: Path) -> None:
    plans = Plans.load(golden_plans)
    for name in plans.configuration_names:
        entries = plans.configurations[name]
        configuration = plans.configuration(name)
        assert list(configuration.spacing) == entries.get("spacing", list(configuration.spacing))
        assert configuration.extra == {}
        assert list(configuration.patch_size) == entries.get("patch_size", list(configuration.patch_size))
        assert configuration.architecture.arch_kwargs["n_stages"] > 1


def test_saved_plans_are_the_bytes_that_nnunet_wrote(golden_plans: Path, tmp_path: Path) -> None:
    text = golden_plans.read_text()
    if text != json.dumps(json.loads(text), indent=4):
        pytest.skip("recorded with another layout")
    Plans.load(golden_plans).save(tmp_path / "plans.json")
    assert (tmp_path / "plans.json").read_text() == text


def test_recorded_fingerprints_come_back_exactly(golden_fingerprint: Path) -> None:
    data = json.loads(golden_fingerprint.read_text())
    assert exact(Fingerprint.from_json(data, golden_fingerprint).to_json()) == exact(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(top=unknown, inside=unknown, statistics=unknown, info=unknown, random=st.randoms(use_true_random=False))
def test_unknown_keys_and_the_order_of_keys_survive(
    plans_data: dict[str, Any], top: Any, inside: Any, statistics: Any, info: Any, random: Any
) -> None:
    data = copy.deepcopy(plans_data)
    data["configurations"]["3d_fullres"] |= inside
    data["foreground_intensity_properties_per_channel"]["0"] |= statistics
    data["pretrain_info"] = {"checkpoint_path": "a.pth", "pt_used_patchsize": [1, 2, 3]} | info
    data = shuffled(data | top, random)
    plans = Plans.from_json(data, "test")
    assert exact(plans.to_json()) == exact(data)
    assert plans.configuration("3d_fullres").extra == inside
    assert plans.extra == top


def shuffled(data: Any, random: Any) -> Any:
    if not isinstance(data, dict):
        return data
    items = [(k, shuffled(v, random)) for k, v in data.items()]
    random.shuffle(items)
    return dict(items)


@given(
    cases=st.lists(st.tuples(st.tuples(positive, positive, positive), st.tuples(*[st.integers(1, 999)] * 3))),
    size=numbers,
    statistics=st.lists(st.lists(numbers, min_size=7, max_size=7), max_size=3),
    more=unknown,
)
def test_any_fingerprint_comes_back_exactly(cases: Any, size: Any, statistics: Any, more: Any) -> None:
    names = ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std")
    data = {
        "foreground_intensity_properties_per_channel": {
            str(i): dict(zip(names, row, strict=True)) for i, row in enumerate(statistics)
        },
        "median_relative_size_after_cropping": size,
        "shapes_after_crop": [list(shape) for _, shape in cases],
        "spacings": [list(spacing) for spacing, _ in cases],
    } | more
    assert exact(Fingerprint.from_json(data, "test").to_json()) == exact(data)


def test_statistics_that_are_not_a_number_come_back(tmp_path: Path) -> None:
    nan = float("nan")
    nothing = IntensityProperties(max=nan, mean=nan, median=nan, min=nan, percentile_00_5=0, percentile_99_5=1, std=nan)
    fingerprint = Fingerprint(
        spacings=((1.0, 1.0, 1.0),),
        shapes_after_crop=((3, 4, 5),),
        median_relative_size_after_cropping=1.0,
        foreground_intensity_properties_per_channel={"0": nothing},
    )
    path = tmp_path / "dataset_fingerprint.json"
    fingerprint.save(path)
    assert "NaN" in path.read_text()
    assert exact(Fingerprint.load(path).to_json()) == exact(fingerprint.to_json())


def test_plans_made_here_have_the_keys_in_nnunets_order(plans_data: dict[str, Any]) -> None:
    read = Plans.from_json(plans_data, "test")
    intensities = read.foreground_intensity_properties_per_channel
    made = Plans(
        dataset_name="Dataset001_Test",
        plans_name="nnUNetPlans",
        original_median_spacing_after_transp=(3.0, 1.0, 1.0),
        original_median_shape_after_transp=(30, 60, 61),
        image_reader_writer="SimpleITKIO",
        transpose_forward=(2, 0, 1),
        transpose_backward=(1, 2, 0),
        configurations={},
        experiment_planner_used="ExperimentPlanner",
        foreground_intensity_properties_per_channel=intensities,
        pretrain_info=PretrainInfo(checkpoint_path="a.pth"),
    )
    assert list(made.to_json()) == [*plans_data, "pretrain_info"]
    assert "citations" in made.to_json()["pretrain_info"]


def test_absent_optional_keys_stay_absent(plans_data: dict[str, Any]) -> None:
    del plans_data["label_manager"], plans_data["experiment_planner_used"]
    plans = Plans.from_json(plans_data, "test")
    assert plans.label_manager == "LabelManager"
    assert exact(plans.to_json()) == exact(plans_data)
