"""An evaluation in parts gives the summary of one process, in whatever order, repeated, killed, or done twice."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import PredictionError, UsageError
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.evaluation import metrics, shared
from nnunet_pt.evaluation.metrics import EvaluationSettings
from nnunet_pt.evaluation.requests import EvaluateRequest, evaluate
from nnunet_pt.evaluation.table import class_names

LABELS = Labels(labels={"background": 0, "all": (1, 2), "core": 2, "ignore": 3}, regions_class_order=(1, 2))

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from nnunet_pt.evaluation import shared
from nnunet_pt.evaluation.metrics import EvaluationSettings
from nnunet_pt.evaluation.requests import EvaluateRequest, evaluate
root, part, kill, gate = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
write = shared.write_json
def writing(path, value):
    write(path, value)
    if kill == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
shared.write_json = writing
(gate / str(os.getpid())).touch()
while kill == "together" and len(list(gate.iterdir())) < 2:
    time.sleep(0.01)
settings = EvaluationSettings(labels_or_regions=((1, 2), 2), ignore_label=3, reader_name="SimpleITKIO",
                              file_ending=".nii.gz", all_labels_known=True, nsd_tolerances_mm=(1.0,))
result = evaluate(EvaluateRequest(references=root / "reference", predictions=root / "prediction", settings=settings,
                                  num_processes=0, progress=False, num_parts=2, part_id=part))
print(result.missing_parts)
"""


@pytest.fixture
def request_(tmp_path: Path, image_writer: Any) -> EvaluateRequest:
    """References and predictions of the cases a, b, b-1 and c; one class is empty in c."""
    random = np.random.default_rng(0)
    for folder in ("reference", "prediction"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b", "b-1", "c"):
            image = random.integers(0, 2 if name == "c" else 3, (4, 5, 6)).astype(np.uint8)
            image_writer(image, tmp_path / folder / f"{name}.nii.gz")
    settings = EvaluationSettings(
        labels_or_regions=((1, 2), 2),
        ignore_label=3,
        reader_name="SimpleITKIO",
        file_ending=".nii.gz",
        all_labels_known=True,
        nsd_tolerances_mm=(1.0,),
    )
    return EvaluateRequest(
        references=tmp_path / "reference",
        predictions=tmp_path / "prediction",
        settings=settings,
        names=class_names(LABELS),
        num_processes=0,
        progress=False,
    )


@pytest.fixture
def expected(request_: EvaluateRequest) -> bytes:
    """The summary of one run, which is removed."""
    path = evaluate(request_).path
    content = path.read_bytes()
    path.unlink()
    return content


def part(request: EvaluateRequest, number: int, total: int = 3, **options: Any) -> Any:
    return evaluate(replace(request, num_parts=total, part_id=number, **options))


def same(request: EvaluateRequest, expected: bytes) -> bool:
    """Whether the summary is there, and nothing is left over."""
    files = {p.name for p in request.predictions.iterdir() if not p.name.endswith(".nii.gz")}
    return files == {"summary.json"} and (request.predictions / "summary.json").read_bytes() == expected


def start(request: EvaluateRequest, number: int, kill: str, gate: Path) -> subprocess.Popen[str]:
    gate.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, str(request.references.parent), str(number), kill, str(gate)]
    environment = {**os.environ, "PYTHONPATH": str(Path(metrics.__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_parts_in_any_order_and_twice(request_: EvaluateRequest, expected: bytes, order: tuple[int, ...]) -> None:
    for position, number in enumerate(order):
        for _ in range(1 if position == 2 else 2):
            result = part(request_, number)
            assert set(result.missing_parts) == set(order[position + 1 :])
    assert result.result is not None and "Metrics of 4 cases" in result.text()
    assert same(request_, expected)


def test_parts_are_those_of_predictions(request_: EvaluateRequest) -> None:
    """Cases are sorted by name without ending: b before b-1, as images are."""
    (request_.predictions / "b.nii.gz").unlink()
    assert part(request_, 2, 4).missing_parts == (0, 1, 3)
    with pytest.raises(PredictionError, match=r"no prediction for b\.nii\.gz"):
        part(request_, 1, 4)


def test_what_is_said_about_missing_parts(request_: EvaluateRequest) -> None:
    text = part(request_, 1).text()
    assert "part 1 of 3 ended; waiting for parts 0, 2" in text and "summary.json" in text
    assert not (request_.predictions / "summary.json").exists()


def test_last_step_without_parts(request_: EvaluateRequest, expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    part(request_, 0)
    part(request_, 2)
    compared = []
    compare = metrics._evaluate
    monkeypatch.setattr(metrics, "_evaluate", lambda pair: (compared.append(pair.case), compare(pair))[1])
    evaluate(request_)
    assert compared == ["b"] and same(request_, expected)


def test_more_parts_than_cases(request_: EvaluateRequest, expected: bytes) -> None:
    assert part(request_, 5, 6).missing_parts == (0, 1, 2, 3)
    for number in range(4):
        part(request_, number, 6)
    assert same(request_, expected)


def test_killed_and_repeated(request_: EvaluateRequest, expected: bytes, tmp_path: Path) -> None:
    process = start(request_, 0, "kill", tmp_path / "gate")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert part(request_, 1, 2).missing_parts == (0,)
    assert part(request_, 0, 2).result is not None
    assert same(request_, expected)


def test_same_part_twice_at_a_time(request_: EvaluateRequest, expected: bytes, tmp_path: Path) -> None:
    part(request_, 1, 2)
    processes = [start(request_, 0, "together", tmp_path / "gate") for _ in range(2)]
    shown = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and shown == ["()", "()"]
    assert same(request_, expected)


@pytest.mark.parametrize("moment", ["compare_pairs", "find_pairs", "write_json"])
def test_put_together_while_a_part_is_done_again(
    request_: EvaluateRequest, expected: bytes, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    part(request_, 0)
    part(request_, 1)
    function = getattr(shared, moment)
    inner: list[Any] = []

    def intercepted(*arguments: Any, **options: Any) -> Any:
        if not inner:
            inner.append(None)
            inner.append(part(request_, 2))  # another process is faster
        return function(*arguments, **options)

    monkeypatch.setattr(shared, moment, intercepted)
    outer = part(request_, 2)
    assert outer.missing_parts == () and inner[1].result is not None
    assert outer.result is not None or "done twice" in outer.text()
    assert same(request_, expected)


def test_parts_that_do_not_belong_together(request_: EvaluateRequest, expected: bytes) -> None:
    part(request_, 0)
    with pytest.raises(UsageError, match="part 0 of 3, begun"):
        part(request_, 1, 2)
    with pytest.raises(UsageError, match="with other settings"):
        part(request_, 1, settings=replace(request_.settings, nsd_tolerances_mm=()))
    evaluate(request_)
    assert same(request_, expected)


@pytest.mark.parametrize(("total", "number"), [(0, 0), (3, 3), (1, 1)])
def test_wrong_numbers(request_: EvaluateRequest, total: int, number: int) -> None:
    with pytest.raises(UsageError, match="no such part"):
        part(request_, number, total)


def test_references_without_prediction(request_: EvaluateRequest) -> None:
    (request_.predictions / "b.nii.gz").unlink()
    evaluate(replace(request_, chill=True))
    expected = (request_.predictions / "summary.json").read_bytes()
    (request_.predictions / "summary.json").unlink()
    for number in (1, 0, 2):  # part 1 has no case
        assert bool(part(request_, number, chill=True).missing_parts) == (number != 2)
    assert same(request_, expected)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_predictions_that_come_part_by_part(request_: EvaluateRequest, order: tuple[int, ...], tmp_path: Path) -> None:
    """One that is missing as long as its part was not done is no reference without prediction."""
    (request_.predictions / "b.nii.gz").unlink()  # part 1 has no other case
    evaluate(replace(request_, chill=True))
    expected = (request_.predictions / "summary.json").read_bytes()
    (request_.predictions / "summary.json").unlink()
    request_.predictions.rename(tmp_path / "later")
    request_.predictions.mkdir()
    for number in order:
        for case in (("a", "c"), (), ("b-1",))[number]:
            (tmp_path / "later" / f"{case}.nii.gz").rename(request_.predictions / f"{case}.nii.gz")
        result = part(request_, number, chill=True)
        assert result.path.exists() == (number == order[-1])
    assert same(request_, expected)


def test_predictions_without_reference(request_: EvaluateRequest) -> None:
    (request_.references / "b.nii.gz").unlink()
    part(request_, 0)
    part(request_, 1)
    with pytest.raises(PredictionError, match=r"no reference in .* for b\.nii\.gz"):
        part(request_, 2)


def test_prediction_that_changed_between_parts(request_: EvaluateRequest, image_writer: Any) -> None:
    part(request_, 0)
    part(request_, 1)
    image_writer(np.ones((4, 5, 6), np.uint8), request_.predictions / "a.nii.gz")
    assert part(request_, 2).missing_parts == (0,)
    done = part(request_, 0).path.read_bytes()
    assert evaluate(request_).path.read_bytes() == done


def test_remarks_are_shown_by_the_part_that_compares(
    request_: EvaluateRequest, image_writer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    image_writer(np.full((4, 5, 6), 9, np.uint8), request_.predictions / "a.nii.gz")
    with caplog.at_level(logging.WARNING):
        part(request_, 1)
        assert not caplog.messages
        part(request_, 0)
        assert "values that are no labels: 9" in caplog.text
