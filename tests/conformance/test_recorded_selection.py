"""The choice of the best configuration that nnU-Net 2.8.1 made of recorded predictions.

The recorded files are in the folder CONFORMANCE_GOLDEN; without them the tests are skipped.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.evaluation.best_configuration import SelectionRequest, find_best_configuration

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", SHARED / "golden")) / "selection"
EXPECTED = GOLDEN / "expected"
REASON = f"there is no recorded selection in {GOLDEN} (CONFORMANCE_GOLDEN)"

pytestmark = pytest.mark.skipif(not EXPECTED.is_dir(), reason=REASON)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of the dataset after the choice."""
    root = tmp_path_factory.mktemp("selection")
    for name in ("results", "preprocessed"):
        shutil.copytree(GOLDEN / name, root / name, copy_function=shutil.copyfile)
    for folder in [root, *root.rglob("*")]:
        folder.chmod(0o755)
    information = json.loads((EXPECTED / "inference_information.json").read_text())
    dataset = information["dataset_name_or_id"]
    request = SelectionRequest(
        dataset=dataset,
        configurations=tuple(model["configuration"] for model in information["considered_models"]),
        folds=tuple(information["folds"]),
        progress=False,
    )
    find_best_configuration(request, Workspace(Settings(preprocessed=root / "preprocessed", results=root / "results")))
    return root / "results" / dataset


def test_the_choice_is_that_of_nnunet(made: Path) -> None:
    text = (made / "inference_information.json").read_text().replace(f"{made.parent}/", "")
    assert_close(json.loads(text), json.loads((EXPECTED / "inference_information.json").read_text()))


def test_metrics_and_postprocessing_are_those_of_nnunet(made: Path) -> None:
    summaries = list(EXPECTED.rglob("summary_means.json"))
    assert len(summaries) == 3
    for path in summaries:
        expected = json.loads(path.read_text())
        found = json.loads((made / path.relative_to(EXPECTED).with_name("summary.json")).read_text())
        assert_close({key: found[key] for key in expected}, expected)
    for path in EXPECTED.rglob("postprocessing.json"):
        assert_close(json.loads((made / path.relative_to(EXPECTED)).read_text()), json.loads(path.read_text()))


def test_segmentations_are_those_of_nnunet(made: Path) -> None:
    images = list(EXPECTED.rglob("*.nii.gz"))
    assert len(images) == 60
    for path in images:
        expected, found = sitk.ReadImage(str(path)), sitk.ReadImage(str(made / path.relative_to(EXPECTED)))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
        np.testing.assert_allclose(found.GetSpacing(), expected.GetSpacing())
        np.testing.assert_allclose(found.GetDirection(), expected.GetDirection())


def assert_close(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_close(found[key], value, f"{where}/{key}")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-12), where
    else:
        assert found == expected, where
