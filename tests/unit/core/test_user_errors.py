"""Errors meant for users."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.core import errors
from nnunet_pt.core.errors import NnunetError, TrainingStopped, UnknownNameError, UsageError

KINDS = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, NnunetError)]


def test_text_has_one_line_for_each_thing_that_is_known() -> None:
    error = NnunetError("scan.nii.gz is damaged", found=0, expected="an image", remedy="copy it again")
    assert str(error) == ("scan.nii.gz is damaged\n  found:    0\n  expected: an image\n  to do:    copy it again")
    assert str(NnunetError("only this")) == "only this"


def test_exit_status() -> None:
    assert {k.exit_status for k in KINDS if k not in (UsageError, TrainingStopped)} == {1}
    assert UsageError.exit_status == 2


@given(
    kind=st.sampled_from(KINDS),
    problem=st.text(),
    found=st.none() | st.text() | st.integers() | st.tuples(st.integers()),
    remedy=st.none() | st.text(),
)
def test_errors_survive_pickling(kind: type[NnunetError], problem: str, found: object, remedy: str | None) -> None:
    error = kind(problem, found=found, remedy=remedy)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.problem, copy.found, copy.expected, copy.remedy) == (problem, found, None, remedy)
    assert str(copy) == str(error)


def test_unknown_name_suggests_similar_ones_regardless_of_case() -> None:
    error = UnknownNameError.of("planner", "nnunetplannerresencl", ["nnUNetPlannerResEncL", "ExperimentPlanner"])
    assert "'nnunetplannerresencl'" in error.problem
    assert error.expected == "ExperimentPlanner, nnUNetPlannerResEncL"
    assert error.remedy == "did you mean nnUNetPlannerResEncL?"


def test_a_suggestion_is_not_lost_among_very_many_names() -> None:
    known = [f"Trainer_{number}epochs" for number in range(100)]
    error = UnknownNameError.of("trainer", "Trainer_7epoch", known)
    assert error.expected is None and "did you mean Trainer_7epochs" in str(error.remedy)
    assert str(UnknownNameError.of("trainer", "qqq", known).expected).count(",") == 99
    assert UnknownNameError.of("trainer", "Trainer_7epoch", known, remedy="look").expected is not None


@pytest.mark.parametrize("known", [[], ["something", "else"]])
def test_unknown_name_without_similar_ones(known: list[str]) -> None:
    assert UnknownNameError.of("planner", "qqq", known).remedy == "use one of the expected names"


def test_unknown_name_with_own_remedy() -> None:
    assert UnknownNameError.of("planner", "ab", ["abc"], remedy="ask").remedy == "ask"


def test_exit_status_of_a_stopped_training_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(TrainingStopped("stopped", remedy="go on", exit_status=143)))
    assert (error.exit_status, error.remedy) == (143, "go on")
