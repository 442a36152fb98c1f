"""A check that is shared out or interrupted says what one check in one go says; nothing is taken from old files."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import DatasetError
from nnunet_pt.core.parts import WHOLE, Part
from nnunet_pt.dataset import integrity
from nnunet_pt.dataset.case_check import CaseCheck, CaseResult, check_case
from nnunet_pt.dataset.integrity_report import IntegrityReport

SHAPE = (6, 7, 8)
Verify = Callable[..., IntegrityReport]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "preprocessed" / "integrity_report.json"


@pytest.fixture
def verify(dataset: Any, report: Path) -> Verify:
    def run(number: int | None = None, total: int = 3, **options: Any) -> IntegrityReport:
        part = WHOLE if number is None else Part(number=number, total=total)
        return integrity.verify_dataset_integrity(
            dataset.folder, num_workers=0, progress=False, report_path=report, part=part, **options
        )

    return run


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that were read."""
    names: list[str] = []

    def noting(check: CaseCheck) -> CaseResult:
        names.append(check.case.identifier)
        return check_case(check)

    monkeypatch.setattr(integrity, "check_case", noting)
    return names


def left_over(report: Path) -> list[str]:
    return sorted(path.name for path in report.parent.iterdir() if path != report)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_parts_in_any_order_say_what_one_check_says(
    dataset: Any, verify: Verify, report: Path, order: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shutil.copy(dataset.image("case_00", 0), dataset.image("case_02", 0))
    dataset.write_label("case_01", np.zeros(SHAPE, np.int16))
    verify()
    expected = report.read_bytes()
    assert json.loads(expected)["num_warnings"] == 2
    report.unlink()
    for position, number in enumerate(order):
        assert not report.exists()
        caplog.clear()
        verify(number)
        waiting = ", ".join(map(str, sorted(order[position + 1 :])))
        assert (f"waiting for part{'s' * (',' in waiting)} {waiting}." in caplog.text) == (waiting != "")
    assert report.read_bytes() == expected and left_over(report) == []
    assert "case_00" in caplog.text and "labels hold no foreground" in caplog.text


def test_only_the_part_with_errors_is_refused(dataset: Any, verify: Verify, report: Path, checked: list[str]) -> None:
    good = dataset.label("case_01").read_bytes()
    dataset.write_label("case_01", np.full(SHAPE, 9, np.int16))
    assert verify(0).num_cases == 1
    with pytest.raises(DatasetError, match=r"Dataset001_Phantom, part 1 of 3: 1 case, 1 error"):
        verify(1)
    verify(2)
    content = json.loads(report.read_text())
    assert [(f["kind"], f["case"]) for f in content["findings"]] == [("unexpected_label", "case_01")]
    dataset.label("case_01").write_bytes(good)
    checked.clear()
    assert verify(1).errors == ()
    assert checked == ["case_01"]
    assert json.loads(report.read_text())["passed"] and left_over(report) == []


def test_an_interrupted_check_goes_on(verify: Verify, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def interrupted(check: CaseCheck) -> CaseResult:
        names.append(check.case.identifier)
        if len(names) == 3:
            raise KeyboardInterrupt
        return check_case(check)

    monkeypatch.setattr(integrity, "check_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify()
    assert not report.exists()
    verify()
    assert names == ["case_00", "case_01", "case_02", "case_02"]
    assert json.loads(report.read_text())["passed"] and left_over(report) == []


def test_a_dataset_that_passed_is_checked_anew(verify: Verify, checked: list[str]) -> None:
    verify()
    verify()
    assert len(checked) == 6


def test_after_errors_only_cases_that_matter_are_read(dataset: Any, verify: Verify, checked: list[str]) -> None:
    dataset.write_label("case_01", np.full(SHAPE, 9, np.int16))
    for _ in range(2):
        with pytest.raises(DatasetError, match="case_01"):
            verify()
    assert checked == ["case_00", "case_01", "case_02", "case_01"]
    checked.clear()
    dataset.write_image("case_00", 1, np.ones(SHAPE))
    with pytest.raises(DatasetError, match=r"images are constant \(1 case\)"):
        verify()
    assert checked == ["case_00", "case_01"]
    checked.clear()
    dataset.description["labels"]["edema"] = 3
    dataset.save()
    with pytest.raises(DatasetError):
        verify()
    assert len(checked) == 3
    checked.clear()
    with pytest.raises(DatasetError):
        verify(clean=True)
    assert len(checked) == 3


def test_a_copy_from_a_backup_that_looks_the_same_is_read(dataset: Any, verify: Verify) -> None:
    path: Path = dataset.image("case_02", 1)
    good, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(good[:-40] + bytes(40))
    os.utime(path, ns=times)
    with pytest.raises(DatasetError, match="case_02"):
        verify()
    path.write_bytes(good)
    os.utime(path, ns=times)
    assert verify().errors == ()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"stamp": 1', b'{"findings": []}'])
def test_damaged_results_are_not_used(verify: Verify, report: Path, checked: list[str], content: bytes) -> None:
    verify(0)
    verify(1)
    (kept,) = report.parent.glob("*.parts/case_01.json")
    kept.write_bytes(content)
    verify(2)
    assert not report.exists()
    verify(1)
    assert report.exists() and checked == ["case_00", "case_01", "case_02", "case_01"]


def test_parts_again_when_all_have_passed(
    dataset: Any, verify: Verify, report: Path, checked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for number in range(3):
        verify(number)
    checked.clear()
    verify(1)
    assert checked == [] and left_over(report) == [] and "no file has changed since" in caplog.text
    dataset.write_image("case_00", 0, np.ones(SHAPE))
    verify(1)
    assert checked == ["case_01"]


def test_overtaken_by_the_same_part(
    verify: Verify, report: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    verify(0)
    verify(1)
    done: list[str] = []

    def slow(check: CaseCheck) -> CaseResult:
        if not done:
            done.append(check.case.identifier)
            verify(2)
        return check_case(check)

    monkeypatch.setattr(integrity, "check_case", slow)
    caplog.set_level("INFO")
    caplog.clear()
    verify(2)
    assert json.loads(report.read_text())["passed"] and left_over(report) == []
    assert "waiting" not in caplog.text


def test_what_concerns_no_single_case_is_said_by_every_part(dataset: Any, verify: Verify) -> None:
    dataset.description["numTraining"] = 4
    dataset.save()
    for number in range(3):
        with pytest.raises(DatasetError, match="numTraining is 4, there are 3 cases"):
            verify(number)
