"""Preprocessing in parts gives what one process gives, in whatever order, repeated, killed, or done twice at a time."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import ImageError, UsageError
from nnunet_pt.preprocessing import pipeline
from nnunet_pt.preprocessing.manifest import CaseRecord, Manifest

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.preprocessing.manifest import Manifest
from nnunet_pt.preprocessing.pipeline import PreprocessRequest, preprocess_dataset
root, part, kill, gate = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
add = Manifest.add
def adding(self, record):
    if kill == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, record)
    if kill == "after":
        os.kill(os.getpid(), signal.SIGKILL)
Manifest.add = adding
(gate / str(os.getpid())).touch()
while kill == "together" and len(list(gate.iterdir())) < 2:
    time.sleep(0.01)
workspace = Workspace(Settings(**{n: root / n for n in ("raw", "preprocessed", "results")}))
request = PreprocessRequest(dataset=7, configurations=("3d_fullres",), num_processes=0, progress=False,
                            num_parts=2, part_id=part)
result = preprocess_dataset(request, workspace)
print(result.configurations[0].missing_parts)
"""


@pytest.fixture
def whole(three: Any, tmp_path: Path) -> Any:
    """A copy of the dataset, preprocessed in one go."""
    shutil.copytree(three.root, tmp_path / "whole")
    other = copy.copy(three)
    other.root = tmp_path / "whole"
    other.preprocess()
    return other


def manifest(dataset: Any) -> dict[str, Any]:
    """The manifest without times."""
    lines = dataset.data.with_name(f"{dataset.data.name}.manifest.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        for stamp in (*record["inputs"].values(), *record["outputs"].values()):
            del stamp["mtime_ns"]
    assert len(records) == len({r["case"] for r in records})
    return {record["case"]: record for record in records}


def same(dataset: Any, whole: Any) -> bool:
    """Whether nothing but the finished data is there, and it is that of one run."""
    return bool(dataset.contents() == whole.contents() and manifest(dataset) == manifest(whole))


def part(dataset: Any, number: int, total: int = 3, **options: Any) -> Any:
    return dataset.preprocess(num_parts=total, part_id=number, **options).configurations[0]


def start(dataset: Any, number: int, kill: str = "", gate: Path | None = None) -> subprocess.Popen[str]:
    gate = gate or dataset.root / f"gate{number}"
    gate.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, str(dataset.root), str(number), kill, str(gate)]
    environment = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_parts_in_any_order(three: Any, whole: Any, order: tuple[int, ...]) -> None:
    for position, number in enumerate(order):
        result = part(three, number)
        assert result.made == ("a1", "b2", "c3")[number : number + 1]
        assert set(result.missing_parts) == set(order[position + 1 :])
        assert part(three, number).made == ()
    assert same(three, whole)
    before = three.times()
    for number in order:
        assert part(three, number).missing_parts == ()
    assert three.preprocess().configurations[0].kept == ("a1", "b2", "c3")
    assert three.times() == before and same(three, whole)


def test_what_is_said_about_missing_parts(three: Any) -> None:
    text = three.preprocess(num_parts=3, part_id=1).summary()
    assert "part 1 of 3" in text and "waiting for parts 0, 2. The last one puts all parts together" in text


def test_last_step_without_parts(three: Any, whole: Any) -> None:
    for number in (0, 2):
        part(three, number)
    result = three.preprocess().configurations[0]
    assert (result.made, result.kept) == (("b2",), ("a1", "c3"))
    assert same(three, whole)


def test_more_parts_than_cases(three: Any, whole: Any) -> None:
    assert part(three, 4, 5).missing_parts == (0, 1, 2)
    for number in range(3):
        part(three, number, 5)
    assert same(three, whole)


@pytest.mark.parametrize("kill", ["before", "after"])
def test_killed_and_repeated(three: Any, whole: Any, kill: str) -> None:
    process = start(three, 0, kill)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert part(three, 1, 2).missing_parts == (0,)
    assert part(three, 0, 2).made == (("a1", "c3") if kill == "before" else ("c3",))
    assert same(three, whole)


def test_same_part_twice_at_a_time(three: Any, whole: Any, tmp_path: Path) -> None:
    part(three, 1, 2)
    processes = [start(three, 0, "together", tmp_path / "gate") for _ in range(2)]
    shown = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and shown == ["()", "()"]
    assert same(three, whole)


def test_put_together_while_a_part_is_done_again(three: Any, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    part(three, 0)
    part(three, 1)
    inner: list[Any] = []
    add = Manifest.add

    def adding(self: Manifest, record: CaseRecord) -> None:
        if not inner:
            inner.append(None)
            inner.append(part(three, 2))  # another process is faster
        add(self, record)

    monkeypatch.setattr(Manifest, "add", adding)
    assert part(three, 2).missing_parts == () and inner[1].missing_parts == ()
    assert same(three, whole)
    assert three.preprocess().configurations[0].made == ()


def test_outdated_results_are_replaced(three: Any, whole: Any) -> None:
    three.plans["configurations"]["3d_fullres"]["spacing"] = [2.0, 2.0, 2.0]
    three.plan()
    three.preprocess()
    shutil.copy(whole.preprocessed / "nnUNetPlans.json", three.preprocessed)
    assert part(three, 0).made == ("a1",)
    assert part(three, 1).missing_parts == (2,)
    assert part(three, 2).made == ("c3",)
    assert same(three, whole)


def test_damaged_results_are_replaced(three: Any, whole: Any) -> None:
    part(three, 0)
    path = three.data / "a1.pkl"
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert part(three, 0, verify=True).damaged == ("a1",)
    for number in (1, 2):
        part(three, number)
    assert same(three, whole)


def test_files_of_removed_cases_are_deleted(three: Any, whole: Any) -> None:
    three.preprocess()
    for dataset in (three, whole):
        three.image("b2").unlink(missing_ok=True)
        three.label("b2").unlink(missing_ok=True)
        dataset.image("b2").unlink(missing_ok=True)
        dataset.label("b2").unlink(missing_ok=True)
    whole.preprocess()
    for number in range(3):
        part(three, number)
    assert {n for n in three.times() if n.startswith("b2")} == set() and manifest(three) == manifest(whole)


def test_parts_that_do_not_belong_together(three: Any, whole: Any) -> None:
    part(three, 0)
    with pytest.raises(UsageError, match=r"part 0 of 3"):
        part(three, 1, 2)
    plans = copy.deepcopy(three.plans)
    three.plans["configurations"]["3d_fullres"]["patch_size"] = [4, 4, 4]
    three.plan()
    with pytest.raises(UsageError, match="with other plans"):
        part(three, 1)
    three.plans = plans
    three.plan()
    three.add("d4")
    with pytest.raises(UsageError, match="with other cases"):
        part(three, 1)
    three.image("d4").unlink()
    three.label("d4").unlink()
    three.preprocess()
    assert same(three, whole)


@pytest.mark.parametrize(("total", "number"), [(0, 0), (3, 3), (1, 1)])
def test_wrong_numbers(three: Any, total: int, number: int) -> None:
    with pytest.raises(UsageError, match="no such part"):
        part(three, number, total)


def test_no_part_starts_over(three: Any) -> None:
    with pytest.raises(UsageError, match="--clean"):
        part(three, 0, clean=True)


def test_failing_case_is_done_later(three: Any, whole: Any) -> None:
    good = three.image("b2").read_bytes()
    status = three.image("b2").stat()
    three.image("b2").write_bytes(good[:50])
    with pytest.raises(ImageError):
        part(three, 1)
    result = part(three, 1, on_failure="continue")
    assert [f.case for f in result.failures] == ["b2"] and result.missing_parts == ()
    assert part(three, 0).missing_parts == (1, 2)
    assert part(three, 2).missing_parts == (1,)
    three.image("b2").write_bytes(good)
    os.utime(three.image("b2"), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert part(three, 1).made == ("b2",)
    assert same(three, whole)


def test_raw_file_that_changed_between_parts(three: Any) -> None:
    part(three, 0)
    part(three, 1)
    three.add("a1", [np.ones((7, 10, 12), np.float32)])
    assert part(three, 2).missing_parts == (0,)
    assert part(three, 0).made == ("a1",)
    assert not Manifest(three.data).parts.exists()
