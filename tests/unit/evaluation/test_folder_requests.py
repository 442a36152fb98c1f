"""Accumulation and postprocessing as functions that take a request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nnunet_pt.core.errors import PredictionError, StorageError, UsageError
from nnunet_pt.evaluation.crossval_request import CrossvalRequest, accumulate_crossval
from nnunet_pt.evaluation.postprocessing_requests import (
    FindPostprocessingRequest,
    PostprocessRequest,
    find_postprocessing,
    postprocess_folder,
)

FOLDS = {0: ["a1"], 1: ["b2", "c3"]}


def crossval(**options: Any) -> CrossvalRequest:
    standard = {"dataset": 7, "configuration": "2d", "folds": (0, 1), "num_processes": 0, "progress": False}
    return CrossvalRequest(**{**standard, **options})


@pytest.fixture
def validated(three: Any, cross_validation: Any) -> Any:
    """A model whose two folds are validated."""
    cross_validation(three, "2d", FOLDS, wrong=0.3, probabilities=False)
    return three


def test_folds_are_put_together_once(validated: Any) -> None:
    result = accumulate_crossval(crossval(), validated.workspace)
    summary = json.loads((result.folder / "summary.json").read_text())
    assert (result.num_cases, result.folder.name) == (3, "crossval_results_folds_0_1")
    assert result.foreground_mean == summary["foreground_mean"]
    assert result.dice == summary["foreground_mean"]["Dice"]
    assert f"mean Dice {result.dice:.5f} in 3 cases of folds 0, 1" in result.summary()
    before = (result.folder / "summary.json").stat().st_mtime_ns
    assert accumulate_crossval(crossval(overwrite=False), validated.workspace) == result
    assert (result.folder / "summary.json").stat().st_mtime_ns == before


def test_only_what_is_there_can_be_put_together(validated: Any) -> None:
    with pytest.raises(PredictionError, match="no fold_2"):
        accumulate_crossval(crossval(folds=(0, 1, 2)), validated.workspace)
    with pytest.raises(UsageError, match="no folds"):
        crossval(folds=())
    with pytest.raises(StorageError, match="is not empty"):
        accumulate_crossval(crossval(output=validated.raw), validated.workspace)


def test_postprocessing_is_found_and_done(validated: Any) -> None:
    folder = accumulate_crossval(crossval(), validated.workspace).folder
    finding = FindPostprocessingRequest(
        segmentations=folder, references=validated.raw / "labelsTr", num_processes=0, progress=False
    )
    found = find_postprocessing(finding)
    doing = PostprocessRequest(
        segmentations=folder,
        output=validated.root / "out",
        postprocessing=found.file,
        num_processes=0,
        progress=False,
    )
    done = postprocess_folder(doing)
    assert (done.steps, done.cases, done.failures) == (found.steps, ("a1", "b2", "c3"), ())
    assert "3 segmentations (" in done.summary()
    for case in done.cases:
        made, expected = (f / f"{case}.nii.gz" for f in (doing.output, folder / "postprocessed"))
        assert made.read_bytes() == expected.read_bytes()
