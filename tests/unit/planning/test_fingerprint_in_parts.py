"""A fingerprint measured in parts is that of one process, in whatever order, repeated, killed, or done twice."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import DatasetError, ImageError, UsageError
from nnunet_pt.planning import fingerprint_extractor

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.planning import fingerprint_extractor as module
root, part, kill, gate = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
module.NUM_SAMPLES = 3000
measure = module.measure_case
def measuring(job):
    measure(job)
    if kill == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
module.measure_case = measuring
(gate / str(os.getpid())).touch()
while kill == "together" and len(list(gate.iterdir())) < 2:
    time.sleep(0.01)
workspace = Workspace(Settings(**{n: root / n for n in ("raw", "preprocessed", "results")}))
request = module.FingerprintRequest(dataset=7, num_processes=0, progress=False, num_parts=2, part_id=part)
print(module.extract_fingerprint(request, workspace).missing_parts)
"""


@pytest.fixture
def expected(three: Any) -> bytes:
    """The fingerprint of one run, which is removed."""
    path: Path = three.fingerprint().path
    content = path.read_bytes()
    path.unlink()
    return content


def part(dataset: Any, number: int, total: int = 3, **options: Any) -> Any:
    return dataset.fingerprint(num_parts=total, part_id=number, **options)


def same(dataset: Any, expected: bytes) -> bool:
    """Whether the fingerprint is there, and nothing is left over."""
    names = {path.name for path in dataset.preprocessed.iterdir()}
    return names == {"dataset.json", "nnUNetPlans.json", "dataset_fingerprint.json"} and expected == (
        (dataset.preprocessed / "dataset_fingerprint.json").read_bytes()
    )


def start(dataset: Any, number: int, kill: str, gate: Path) -> subprocess.Popen[str]:
    gate.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, str(dataset.root), str(number), kill, str(gate)]
    environment = {**os.environ, "PYTHONPATH": str(Path(fingerprint_extractor.__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_parts_in_any_order_and_twice(three: Any, expected: bytes, order: tuple[int, ...]) -> None:
    for position, number in enumerate(order):
        for _ in range(2):
            result = part(three, number)
            assert set(result.missing_parts) == set(order[position + 1 :])
    assert result.reused and same(three, expected)
    assert three.fingerprint().reused


def test_what_is_said_about_missing_parts(three: Any) -> None:
    result = part(three, 1)
    assert result.fingerprint is None and "part 1 of 3 ended; waiting for parts 0, 2" in result.summary()


def test_last_step_without_parts(three: Any, expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    part(three, 0)
    part(three, 2)
    measured = []
    measure = fingerprint_extractor.measure_case
    monkeypatch.setattr(fingerprint_extractor, "measure_case", lambda job: (measured.append(job.name), measure(job)))
    three.fingerprint()
    assert measured == ["b2"] and same(three, expected)


def test_more_parts_than_cases(three: Any, expected: bytes) -> None:
    assert part(three, 4, 5).missing_parts == (0, 1, 2)
    for number in range(3):
        part(three, number, 5)
    assert same(three, expected)


def test_killed_and_repeated(three: Any, expected: bytes, tmp_path: Path) -> None:
    process = start(three, 0, "kill", tmp_path / "gate")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert part(three, 1, 2).missing_parts == (0,)
    assert part(three, 0, 2).fingerprint is not None
    assert same(three, expected)


def test_same_part_twice_at_a_time(three: Any, expected: bytes, tmp_path: Path) -> None:
    part(three, 1, 2)
    processes = [start(three, 0, "together", tmp_path / "gate") for _ in range(2)]
    shown = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and shown == ["()", "()"]
    assert same(three, expected)


@pytest.mark.parametrize("moment", ["measure_case", "_missing", "_merge"])
def test_put_together_while_a_part_is_done_again(
    three: Any, expected: bytes, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    part(three, 0)
    part(three, 1)
    function = getattr(fingerprint_extractor, moment)
    inner: list[Any] = []

    def intercepted(*arguments: Any) -> Any:
        if not inner:
            inner.append(None)
            inner.append(part(three, 2))  # another process is faster
        return function(*arguments)

    monkeypatch.setattr(fingerprint_extractor, moment, intercepted)
    assert part(three, 2).missing_parts == () and inner[1].missing_parts == ()
    assert same(three, expected)


def test_parts_that_do_not_belong_together(three: Any, expected: bytes) -> None:
    part(three, 0)
    with pytest.raises(UsageError, match="part 0 of 3, begun"):
        part(three, 1, 2)
    three.add("d4")
    with pytest.raises(UsageError, match=r"with other cases and dataset.json"):
        part(three, 1)
    three.image("d4").unlink()
    three.label("d4").unlink()
    three.fingerprint()
    assert same(three, expected)


@pytest.mark.parametrize(("total", "number"), [(0, 0), (3, 3), (1, 1)])
def test_wrong_numbers(three: Any, total: int, number: int) -> None:
    with pytest.raises(UsageError, match="no such part"):
        part(three, number, total)


def test_no_part_starts_over(three: Any) -> None:
    with pytest.raises(UsageError, match="--clean"):
        part(three, 0, clean=True)


def test_failing_case_is_done_later(three: Any, expected: bytes) -> None:
    good = three.image("b2").read_bytes()
    three.image("b2").write_bytes(good[:50])
    with pytest.raises(ImageError):
        part(three, 1)
    assert [f.case for f in part(three, 1, on_failure="continue").failures] == ["b2"]
    assert part(three, 0).missing_parts == (1, 2)
    assert part(three, 2).missing_parts == (1,)
    three.image("b2").write_bytes(good)
    part(three, 1)
    assert same(three, expected)


def test_raw_file_that_changed_between_parts(three: Any) -> None:
    part(three, 0)
    part(three, 1)
    three.add("a1", seed=1)
    assert part(three, 2).missing_parts == (0,)
    assert part(three, 0).fingerprint is not None


def test_each_part_verifies_its_own_cases(three: Any, expected: bytes) -> None:
    three.description["numTraining"] = 3
    three.describe()
    label = three.label("b2").read_bytes()
    three.label("b2").write_bytes(b"no image")
    part(three, 0, verify_integrity=True)
    with pytest.raises(DatasetError, match="b2"):
        part(three, 1, verify_integrity=True)
    assert part(three, 2, verify_integrity=True).missing_parts == (1,)
    three.label("b2").write_bytes(label)
    assert part(three, 1, verify_integrity=True).fingerprint is not None
    report = three.preprocessed / "integrity_report.json"
    assert json.loads(report.read_text())["passed"]
    report.unlink()
    assert same(three, expected)
