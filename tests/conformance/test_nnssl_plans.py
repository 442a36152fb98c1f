"""Plans and preprocessed cases that nnU-Net made for nnssl's checkpoints.

The records are in the folder CONFORMANCE_GOLDEN, raw data in CONFORMANCE_DATA; checkpoints, data sets, base plans and
modes are found by listing; without records the tests are skipped. Large cases are slow tests.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import PlansError, UsageError
from nnunet_pt.dataset.cases import Case, training_cases
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.planning.pretrained_plans import (
    adapted_spacing,
    find_base_plans,
    named_base_plans,
    plans_like_dynamic,
    plans_like_nnssl,
)
from nnunet_pt.plans.plans import Plans
from nnunet_pt.plans.pretrain_info import SHA256_KEY
from nnunet_pt.preprocessing.case import CaseSettings, preprocess_arrays, read_case
from nnunet_pt.transfer.nnssl_plans import pretraining_of
from nnunet_pt.transfer.source import read_source

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", SHARED / "golden")) / "nnssl" / "f_plans"
DATA = Path(os.environ.get("CONFORMANCE_DATA", SHARED / "data"))
RECORDS: dict[str, Any] = json.loads((GOLDEN / "plans.json").read_text()) if (GOLDEN / "plans.json").is_file() else {}
LARGE = 3_000_000  # voxels
ARGUMENT_ERRORS = {
    "fixed_without_spacing": ("fixed", None),
    "fixed_two_numbers": ("fixed", (1.0, 1.0)),
    "unknown_mode": ("foo", None),
}


def or_skip(found: list[Any]) -> list[Any]:
    reason = f"there are no recorded plans in {GOLDEN} (CONFORMANCE_GOLDEN)"
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def recorded_modes(*, with_arrays: bool = False) -> list[Any]:
    """Data set, name of the mode, and what one implementation did."""
    found = []
    for dataset, record in RECORDS.items():
        for mode, entry in record["modes"].items():
            for origin, run in (("", entry), ("-fork", entry.get("fork") or {})):
                wanted = run.get("preprocessed") if with_arrays else run.get("plan")
                if wanted is None:
                    continue
                large = with_arrays and math.prod(wanted["full_shape"]) > LARGE
                marks = [pytest.mark.slow] if large else []
                found.append(pytest.param((dataset, run), id=f"{dataset}-{mode}{origin}", marks=marks))
    return or_skip(found)


@functools.cache
def made_plans(dataset: str, arguments: str) -> Plans:
    given = json.loads(arguments)
    base = GOLDEN / dataset / "base"
    pretraining = pretraining_of(read_source(GOLDEN / given["-pc"], lazy=True), given["-n"])
    if "-am" not in given:
        return plans_like_dynamic(named_base_plans(base, given["-pl"]), pretraining)
    return plans_like_nnssl(find_base_plans(base), pretraining, mode=given["-am"], override_spacing=given.get("-os"))


def plans_of(dataset: str, run: dict[str, Any]) -> Plans:
    return made_plans(dataset, json.dumps(run["arguments"]))


@pytest.mark.parametrize("record", recorded_modes())
def test_plans_are_the_recorded_ones(record: tuple[str, dict[str, Any]]) -> None:
    dataset, run = record
    plans = plans_of(dataset, run)
    ours, theirs = plans.to_json(), json.loads((GOLDEN / run["plan"]).read_text())
    info = ours["pretrain_info"]
    assert Path(info["checkpoint_path"]).is_absolute() and len(info.pop(SHA256_KEY)) == 64
    info["checkpoint_path"] = "<CHECKPOINT>"
    if "fork" in run["implementation"]:  # it keeps the batch size of the base plans
        ours["configurations"]["3d_fullres"]["batch_size"] = theirs["configurations"]["3d_fullres"]["batch_size"]
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    assert plans.plans_name == run["plans_name"]
    assert plans.configuration("3d_fullres").data_identifier == run["data_identifier"]


@pytest.mark.parametrize("dataset", or_skip(list(RECORDS)))
def test_the_recorded_base_plans_are_chosen(dataset: str, tmp_path: Path) -> None:
    for number, (there, chosen) in enumerate(RECORDS[dataset]["base_plan_selection"].items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in () if there == "none" else there.split(","):
            shutil.copy(GOLDEN / dataset / "base" / "nnUNetPlans.json", folder / f"{name}.json")
        if chosen.endswith(".json"):
            assert find_base_plans(folder).source == folder / chosen
        else:
            with pytest.raises(PlansError, match="nnUNetv2_plan_and_preprocess"):
                find_base_plans(folder)


@pytest.mark.parametrize("dataset", or_skip(list(RECORDS)))
def test_wrong_arguments_are_refused(dataset: str) -> None:
    for kind in RECORDS[dataset]["argument_errors"]:
        mode, spacing = ARGUMENT_ERRORS[kind]
        with pytest.raises(UsageError):
            adapted_spacing(mode, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), spacing)  # type: ignore[arg-type]


def raw_case(dataset: str, identifier: str, description: DatasetDescription) -> Case:
    if (DATA / dataset).is_dir():
        return next(c for c in training_cases(DATA / dataset, description) if c.identifier == identifier)
    raw, ending = GOLDEN / dataset / "raw", description.file_ending
    images = tuple(raw / f"{identifier}_{i:04d}{ending}" for i in range(description.num_channels))
    if not all(path.is_file() for path in images):
        pytest.skip(f"there are no raw data in {DATA / dataset} (CONFORMANCE_DATA)")
    return Case(identifier=identifier, images=images, label=raw / f"{identifier}{ending}")


@pytest.mark.parametrize("record", recorded_modes(with_arrays=True))
def test_preprocessed_cases_are_the_recorded_ones(
    record: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(DATA))  # tables of cases may refer to it
    dataset, run = record
    recorded = run["preprocessed"]
    description = DatasetDescription.load(GOLDEN / dataset / "base" / "dataset.json")
    plans = plans_of(dataset, run)
    settings = CaseSettings.of(plans, "3d_fullres", Labels.from_description(description), description.channel_names)
    case = raw_case(dataset, recorded["case"], description)
    image, segmentation, properties = preprocess_arrays(
        *read_case(case, settings.reader_name, settings.labels), settings, threads=2
    )
    assert list(image.shape) == recorded["full_shape"]
    for key, value in recorded["properties"].items():
        if key == "class_location_counts":
            counts = {str(k): len(v) for k, v in properties["class_locations"].items()}
            if "fork" in run["implementation"]:  # it loses the voxels of some regions, though its segmentation has them
                value = {k: v or counts[k] for k, v in value.items()}
            assert counts == value
        else:
            assert json.loads(json.dumps(properties[key])) == value, key
    every = (slice(None), *(slice(None, None, recorded["step"]),) * 3)
    resampled = list(image.shape[1:]) != recorded["properties"]["shape_after_cropping_and_before_resampling"]
    with np.load(GOLDEN / recorded["array"]) as arrays:
        np.testing.assert_allclose(image[every], arrays["data"], rtol=0, atol=1e-3 if resampled else 1e-5)
        wrong = np.count_nonzero(segmentation[every] != arrays["seg"])
        assert wrong <= (arrays["seg"].size // 1000 if resampled else 0)
    statistics = recorded["cases"][recorded["case"]]
    np.testing.assert_allclose(image.std(axis=(1, 2, 3), dtype=np.float64), statistics["std"], rtol=1e-4)
