"""Cases that nnU-Net 2.8.1 preprocessed, and what it recorded of them.

The recorded results are in the folder CONFORMANCE_GOLDEN, the raw data in CONFORMANCE_DATA; what is there is listed;
without them the tests are skipped. Large cases are slow tests.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.files import plain_json
from nnunet_pt.dataset.cases import training_cases
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.plans.plans import Plans
from nnunet_pt.preprocessing.blosc_layout import blocks_and_chunks
from nnunet_pt.preprocessing.case import CaseSettings, preprocess_arrays, read_case
from nnunet_pt.preprocessing.splits import make_splits

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", SHARED / "golden")) / "datasets"
DATA = Path(os.environ.get("CONFORMANCE_DATA", SHARED / "data"))
LARGE = 3_000_000  # voxels


def or_skip(found: list[Any], reason: str) -> list[Any]:
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def recorded_cases() -> list[Any]:
    cases = []
    for path in sorted(GOLDEN.glob("*/nnUNetPlans_*/*.json")):
        voxels = math.prod(json.loads(path.read_text())["data_shape"])
        marks = [pytest.mark.slow] if voxels > LARGE else []
        cases.append(pytest.param(path, id=str(path.relative_to(GOLDEN).with_suffix("")), marks=marks))
    return or_skip(cases, f"there are no recorded cases in {GOLDEN} (CONFORMANCE_GOLDEN)")


def recorded_splits() -> list[Any]:
    paths = sorted(GOLDEN.glob("*/splits_final.json"))
    return or_skip([pytest.param(p, id=p.parent.name) for p in paths], f"there are no recorded splits in {GOLDEN}")


def settings_of(path: Path) -> CaseSettings:
    plans, description = Plans.load(path.parents[1] / "nnUNetPlans.json"), description_of(path)
    configuration = path.parent.name.removeprefix("nnUNetPlans_")
    return CaseSettings.of(plans, configuration, Labels.from_description(description), description.channel_names)


def description_of(path: Path) -> DatasetDescription:
    return DatasetDescription.load(path.parents[1] / "dataset.json")


@pytest.mark.parametrize("path", recorded_cases())
def test_preprocessed_case(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(DATA))  # tables of cases may refer to it
    raw = DATA / path.parents[1].name
    if not raw.is_dir():
        pytest.skip(f"there are no raw data in {raw} (CONFORMANCE_DATA)")
    settings, recorded = settings_of(path), json.loads(path.read_text())
    case = next(c for c in training_cases(raw, description_of(path)) if c.identifier == path.stem)
    image, segmentation, properties = preprocess_arrays(
        *read_case(case, settings.reader_name, settings.labels), settings, threads=2
    )
    assert list(image.shape) == recorded["data_shape"] and list(segmentation.shape) == recorded["seg_shape"]
    with np.load(path.with_suffix(".npz")) as probes:
        where = tuple(probes["probe_index"].astype(int))
        wanted = probes["probe_data"]
        np.testing.assert_allclose(image[where], wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
        np.testing.assert_array_equal(segmentation[(0, *where[1:])], probes["probe_seg"])
    values, counts = np.unique(segmentation, return_counts=True)
    assert dict(zip(map(str, values.tolist()), counts.tolist(), strict=True)) == recorded["seg_label_counts"]
    assert_properties(properties, recorded["properties"])


def assert_properties(properties: dict[str, Any], recorded: dict[str, Any]) -> None:
    locations = properties.pop("class_locations")
    summary = recorded.pop("class_locations_summary")
    assert {str(key): len(value) for key, value in locations.items()} == {k: v["count"] for k, v in summary.items()}
    for key, value in locations.items():
        assert np.asarray(value)[:5].tolist() == summary[str(key)]["first_rows"]
    assert plain_json(properties) == recorded


@pytest.mark.parametrize("path", recorded_cases())
def test_layout_on_disk(path: Path) -> None:
    patch, recorded = settings_of(path).configuration.patch_size, json.loads(path.read_text())
    for what, item in (("data", 4), ("seg", 2)):
        blocks, chunks = blocks_and_chunks(recorded[f"{what}_shape"], patch, item)
        assert list(blocks) == recorded["blosc2"][f"{what}_blocks"], what
        assert list(chunks) == recorded["blosc2"][f"{what}_chunks"], what


@pytest.mark.parametrize("path", recorded_splits())
def test_splits(path: Path) -> None:
    if (DATA / path.parent.name / path.name).is_file():
        pytest.skip("the raw dataset has splits of its own")
    recorded = json.loads(path.read_text())
    cases = sorted({case for split in recorded for case in (*split["train"], *split["val"])})
    assert [split.to_json() for split in make_splits(cases)] == recorded
