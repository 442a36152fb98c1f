"""The three steps of a preparation as one function."""

from __future__ import annotations

from typing import Any

import pytest

from nnunet_pt.core.errors import DatasetError, UnknownNameError, UsageError
from nnunet_pt.planning import fingerprint_extractor
from nnunet_pt.planning.plan_and_preprocess import PlanAndPreprocessRequest, plan_and_preprocess


def request(**options: Any) -> PlanAndPreprocessRequest:
    standard = {"datasets": (7,), "num_fingerprint_processes": 0, "num_processes": 0, "progress": False}
    return PlanAndPreprocessRequest(**{**standard, **options})


@pytest.fixture
def unplanned(three: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Three raw cases."""
    monkeypatch.setattr(fingerprint_extractor, "NUM_SAMPLES", 3000)
    (three.preprocessed / "nnUNetPlans.json").unlink()
    return three


def test_all_steps_are_done_and_told(unplanned: Any) -> None:
    result = plan_and_preprocess(request(configurations=("2d",), plans_name="mine"), unplanned.workspace)
    (fingerprint,), (planned,), (preprocessed,) = result.fingerprints, result.planned, result.preprocessed
    assert fingerprint.path.is_file() and planned.path == unplanned.preprocessed / "mine.json"
    assert planned.path.is_file()
    assert preprocessed.configurations[0].made == ("a1", "b2", "c3")
    assert result.failures == ()
    assert [text.partition(":")[0] for text in result.summaries()[1:2]] == [unplanned.name]
    assert result.summaries() == (fingerprint.summary(), planned.summary(), preprocessed.summary())


def test_preprocessing_can_be_left_out(unplanned: Any) -> None:
    result = plan_and_preprocess(request(preprocess=False), unplanned.workspace)
    assert result.planned and not result.preprocessed
    assert not unplanned.data.exists()


def test_without_all_measurements_there_are_no_plans(unplanned: Any) -> None:
    unplanned.image("b2").write_bytes(b"no image")
    result = plan_and_preprocess(request(on_failure="continue"), unplanned.workspace)
    assert [failure.case for failure in result.failures] == ["b2"]
    assert result.planned == result.preprocessed == ()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"datasets": ()}, UsageError),
        ({"configurations": ("2d", "3d_fullres"), "num_processes": (1, 2, 3)}, UsageError),
    ],
)
def test_impossible_requests_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        request(**options)


@pytest.mark.parametrize(
    ("options", "error"), [({"planner": "Planner"}, UnknownNameError), ({"datasets": (7, 8)}, DatasetError)]
)
def test_typing_errors_are_found_before_anything_is_measured(
    unplanned: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        plan_and_preprocess(request(**options), unplanned.workspace)
    assert not (unplanned.preprocessed / "dataset_fingerprint.json").exists()
