"""Commands that are killed, and workers that are killed: the next run gives what an undisturbed one gives."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.files import remove_leftovers

CASES = tuple(f"case_{i}" for i in range(4))
PROGRAM = """
import sys
from nnunet_pt.planning import fingerprint_extractor
fingerprint_extractor.NUM_SAMPLES = 200_000
from importlib import import_module
sys.exit(import_module(f"nnunet_pt.cli.{sys.argv[1]}").main(sys.argv[2:]))
"""
COMMANDS = {
    "fingerprint": ["extract_fingerprint", "-d", "7", "-np", "2"],
    "preprocess": ["preprocess", "-d", "7", "-c", "3d_fullres", "-np", "2"],
}


@pytest.fixture(scope="module")
def _cases(tmp_path_factory: pytest.TempPathFactory, small_dataset: Callable[[Path], Any]) -> Any:
    dataset = small_dataset(tmp_path_factory.mktemp("cases"))
    for case in CASES:
        dataset.add(case, shape=(20, 36, 40))
    return dataset


@pytest.fixture
def dataset(_cases: Any, tmp_path: Path, small_dataset: Callable[[Path], Any]) -> Any:
    """A dataset of a few cases that take a moment."""
    dataset = small_dataset(tmp_path)
    shutil.copytree(_cases.raw, dataset.raw, dirs_exist_ok=True)
    return dataset


def start(dataset: Any, stage: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
    folders = {f"nnUNet_{n}": str(dataset.root / n) for n in ("raw", "preprocessed", "results")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *COMMANDS[stage], *arguments],
        env={**os.environ, **folders, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a run that must succeed, and return what it printed."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out + err


def interrupt(process: subprocess.Popen[str], how: Callable[[], None]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it was faster
        how()
    process.communicate(timeout=30)


@pytest.fixture(scope="module")
def undisturbed(
    _cases: Any, tmp_path_factory: pytest.TempPathFactory, small_dataset: Any
) -> dict[str, dict[str, bytes]]:
    """What each stage leaves behind if nobody disturbs it."""
    result = {}
    for stage in COMMANDS:
        dataset = small_dataset(tmp_path_factory.mktemp(stage))
        shutil.copytree(_cases.raw, dataset.raw, dirs_exist_ok=True)
        finish(start(dataset, stage))
        result[stage] = dataset.contents()
    assert len(result["preprocess"]) == 2 + len(CASES) * (3 + 1)
    return result


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Its child processes, whichever of its threads started them."""
    pids: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
            pids += map(int, path.read_text().split())
    return pids


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def results(dataset: Any, stage: str) -> list[Path]:
    """Files that the workers have begun to write."""
    folders = {"fingerprint": "dataset_fingerprint.parts", "preprocess": "nnUNetPlans_*"}
    return list(dataset.preprocessed.glob(f"{folders[stage]}/*"))


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


@pytest.fixture
def nothing_left_running() -> Iterator[list[int]]:
    """Processes put into this list must have ended a few seconds after the test."""
    pids: list[int] = []
    yield pids
    end = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_alive(pid)]


@pytest.mark.parametrize("everybody", [True, False], ids=["with its workers", "alone"])
@pytest.mark.parametrize("stage", list(COMMANDS))
def test_killed_command_is_continued(
    dataset: Any, undisturbed: Any, stage: str, everybody: bool, nothing_left_running: list[int]
) -> None:
    process = start(dataset, stage)
    wait_until(lambda: len([p for p in results(dataset, stage) if not p.name.startswith(".")]) >= 2, process)
    nothing_left_running += workers_of(process)
    interrupt(process, lambda: os.killpg(process.pid, signal.SIGKILL) if everybody else process.kill())
    assert process.returncode == -signal.SIGKILL
    assert not (dataset.preprocessed / "dataset_fingerprint.json").exists()
    output = finish(start(dataset, stage))  # at once, while workers of the first run may still be ending
    assert dataset.contents() == undisturbed[stage]
    assert dataset.leftovers() == []
    if stage == "preprocess" and everybody:
        assert f"{len(CASES)} preprocessed, 0 already there" not in output.splitlines()[0]


def kill_at_random_moments(dataset: Any, stage: str, moments: random.Random, times: int) -> None:
    begun = time.monotonic()
    finish(start(dataset, stage))
    duration = time.monotonic() - begun
    for path in dataset.preprocessed.iterdir():
        if path.name not in ("dataset.json", "nnUNetPlans.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for _ in range(times):
        process = start(dataset, stage)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.2, 1.0) * duration)
        group = moments.random() < 0.5
        interrupt(process, lambda p=process, g=group: os.killpg(p.pid, signal.SIGKILL) if g else p.kill())
        if process.returncode == 0:
            return


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stage", list(COMMANDS))
def test_killed_again_and_again(dataset: Any, undisturbed: Any, stage: str, seed: int) -> None:
    kill_at_random_moments(dataset, stage, random.Random(seed), times=6)
    finish(start(dataset, stage))
    assert dataset.contents() == undisturbed[stage]
    assert dataset.leftovers() == []


@pytest.mark.parametrize("stage", list(COMMANDS))
def test_killed_worker_does_not_stop_the_run(dataset: Any, undisturbed: Any, stage: str) -> None:
    process = start(dataset, stage)
    wait_until(lambda: results(dataset, stage), process)
    victims = workers_of(process)[:1]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    output = finish(process)
    assert dataset.contents() == undisturbed[stage]
    assert dataset.leftovers() == []
    assert victims
    assert "Traceback" not in output


KILLER = """
import os, signal, sys
from nnunet_pt.preprocessing import case
from nnunet_pt.planning import fingerprint_extractor
read = case.read_case
def read_and_die(one, *rest):
    if one.identifier == "case_1" and "nnunet_pt.core._worker" in sys.modules:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(one, *rest)
case.read_case = fingerprint_extractor.read_case = read_and_die
"""


@pytest.mark.parametrize("stage", list(COMMANDS))
def test_case_that_kills_every_worker_is_named(dataset: Any, undisturbed: Any, stage: str, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    process = start(dataset, stage, PYTHONPATH=str(tmp_path / "site"))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "case_1" in out + err and "SIGKILL" in out + err and "memory" in out + err
    assert "Traceback" not in err
    assert dataset.leftovers() == [] and not (dataset.preprocessed / "dataset_fingerprint.json").exists()
    assert not list(dataset.data.glob("case_1*"))
    finish(start(dataset, stage))
    assert dataset.contents() == undisturbed[stage]


def test_interrupted_measurement_is_used_again(dataset: Any) -> None:
    process = start(dataset, "fingerprint", "-np", "1")
    wait_until(lambda: list(dataset.preprocessed.glob("*.parts/[!.]*.npz")), process)
    interrupt(process, lambda: os.killpg(process.pid, signal.SIGKILL))
    parts = {p.name: p.stat().st_mtime_ns for p in dataset.preprocessed.glob("*.parts/[!.]*.npz")}
    assert 0 < len(parts) < len(CASES)
    dataset.image("case_3").write_bytes(b"no image")  # so that the parts are still there afterwards
    process = start(dataset, "fingerprint")
    process.communicate(timeout=60)
    assert process.returncode == 1
    now = {p.name: p.stat().st_mtime_ns for p in dataset.preprocessed.glob("*.parts/[!.]*.npz")}
    assert parts.items() <= now.items()


def test_number_of_workers_changes_no_byte(small_dataset: Any, tmp_path: Path) -> None:
    """On some processors, such as this one, BLAS adds in another order when it has more threads."""
    contents = []
    env = {"OPENBLAS_CORETYPE": "Haswell"}
    for number in ("1", "3"):
        dataset = small_dataset(tmp_path / number)
        for case in CASES[:3]:
            dataset.add(case, shape=(70, 90, 80))
        finish(start(dataset, "preprocess", "-np", number, **env))
        contents.append(dataset.contents())
    assert contents[0] == contents[1]


def test_two_runs_at_once_end_well(dataset: Any, undisturbed: Any) -> None:
    """Nobody should, but a cluster may start the same job twice."""
    processes = [start(dataset, "preprocess") for _ in range(2)]
    ends = [(p.communicate(timeout=120), p.returncode) for p in processes]
    assert any(code == 0 for _, code in ends), ends
    finish(start(dataset, "preprocess"))
    assert dataset.contents() == undisturbed["preprocess"]
    assert dataset.leftovers() == []


def test_terminated_command_leaves_nothing_half_written(dataset: Any, undisturbed: Any) -> None:
    process = start(dataset, "preprocess")
    wait_until(lambda: results(dataset, "preprocess"), process)
    interrupt(process, process.terminate)
    assert process.returncode != 0
    assert dataset.leftovers() == []
    finish(start(dataset, "preprocess"))
    assert dataset.contents() == undisturbed["preprocess"]


def test_zombies_write_nothing_any_more(tmp_path: Path) -> None:
    """In a container without an init process nobody collects what was killed."""
    target = tmp_path / "target"
    code = f"""
import os, sys
from pathlib import Path
from nnunet_pt.core.files import atomic_path
with atomic_path(Path({str(target)!r})):
    print("now", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "now\n"
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        process.kill()
        end = time.monotonic() + 10
        while is_alive(process.pid) and time.monotonic() < end:
            time.sleep(0.01)
        remove_leftovers(tmp_path)  # nobody has waited for the process yet
        assert list(tmp_path.iterdir()) == []
