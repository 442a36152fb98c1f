"""Jobs of SLURM as workers of Dask, with stand-ins for its commands; with the real ones in tests/slurm."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import dask_tasks
import pytest
from slurm_world import commands

from nnunet_pt.cluster import dask_crew, dask_executor
from nnunet_pt.cluster.dask_checks import SharedFolders
from nnunet_pt.cluster.dask_slurm import slurm_executor
from nnunet_pt.cluster.settings import load_cluster_settings, memory_bytes
from nnunet_pt.core.errors import UnknownNameError, UsageError, WorkerError
from nnunet_pt.core.workers import CaseTask, map_cases

pytestmark = pytest.mark.xdist_group("dask")

# Runs a job at once, in the background
SBATCH = """
number=101
until mkdir "$HERE/$number" 2> /dev/null; do number=$((number + 1)); done  # they come at the same time
cp "${@: -1}" "$HERE/job_$number.sh"
(trap '' HUP; exec setsid bash "$HERE/job_$number.sh" > "$HERE/job_$number.out" 2>&1) &
echo $! > "$HERE/job_$number.pid"
echo "Submitted batch job $number"
"""
SCANCEL = 'for job in "$@"; do echo "$job" >> "$HERE/cancelled"; kill -- "-$(cat "$HERE/job_$job.pid")"; done'
SQUEUE = """
for file in "$HERE"/job_*.pid; do
    job=${file##*_}
    if kill -0 "$(cat "$file")" 2> /dev/null; then echo "${job%.pid}|N/A|RUNNING|None|nnunet_dask|$HERE"; fi
done
"""
SETTINGS = """
partition = "short"
account = "brain"
modules = ["python/3.12"]
venv = ""
[cases]
cpus = 2
mem = "1G"
time = "2:00:00"
options = ["--qos=long"]
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the stand-ins note what they do."""
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("BASH_FUNC_module%%", '() { echo "$2" >> "$HERE/modules"; }')
    scripts = {"sbatch": SBATCH, "scancel": SCANCEL, "squeue": SQUEUE, "sinfo": "echo short; echo long"}
    monkeypatch.setenv("PATH", commands(tmp_path / "bin", scripts))
    paths = [str(dask_tasks.PROJECT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dask_executor, "POLL_S", 0.1)
    (tmp_path / "cluster.toml").write_text(SETTINGS, encoding="utf-8")
    return tmp_path


def settings(folder: Path, **flags: object) -> object:
    return load_cluster_settings(folder / "cluster.toml", flags=flags, training_flags={})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_jobs_work_on_cases_and_are_cancelled(slurm: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    tasks = [CaseTask(case=str(i), argument=i) for i in range(6)]
    with slurm_executor(2, settings(slurm), SharedFolders(written=slurm)) as executor:  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGINT) is before
        wait_for(lambda: executor.slots == 4)
        assert executor.ram_bytes == pytest.approx(2 * 0.8 * 2**30, rel=1e-3)
        done = map_cases(
            dask_tasks.fail_at_three,
            tasks,
            num_workers=1,
            description="work",
            progress=False,
            executor=executor,
            on_failure="continue",
        )
    assert len(done.results) == 4 and len(done.failures) == 2
    job = (slurm / "job_101.sh").read_text()
    for line in ("-p short", "-A brain", "--cpus-per-task=2", "--mem=1G", "-t 2:00:00", "--qos=long"):
        assert f"#SBATCH {line}\n" in job
    assert (slurm / "modules").read_text().split() == ["python/3.12"] * 2
    assert sorted((slurm / "cancelled").read_text().split()) == ["101", "102"]
    pids = [file.read_text().strip() for file in slurm.glob("job_*.pid")]
    wait_for(lambda: not any(Path("/proc", pid).exists() for pid in pids))


def test_a_current_folder_with_a_space(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slurm / "my folder").mkdir()
    monkeypatch.chdir(slurm / "my folder")
    with slurm_executor(1, settings(slurm), SharedFolders(written=slurm)):  # type: ignore[arg-type]
        pass
    options = re.findall(r"^#SBATCH (.*)", (slurm / "job_101.sh").read_text(), re.MULTILINE)
    assert [words[1] for o in options if (words := o.split())[0] == "-o"] == ["dask_slurm_logs/nnunet_dask-%J.out"]
    assert all(len(option.split()) <= 2 for option in options)


def test_jobs_that_end_at_once(slurm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(dask_crew, "SAY_AGAIN_S", 0.1)
    caplog.set_level("INFO")
    began = time.monotonic()
    with (
        pytest.raises(WorkerError, match="has no workers") as caught,
        slurm_executor(2, settings(slurm, setup=["sleep 1; exit 1"]), SharedFolders(written=slurm)),  # type: ignore[arg-type]
    ):
        pass
    assert caught.value.found == "none are coming" and "dask_slurm_logs" in str(caught.value.remedy)
    assert "has no workers: 2 RUNNING (None)" in caplog.text and time.monotonic() - began < 20


def test_jobs_that_slurm_refuses(slurm: Path) -> None:
    commands(slurm / "bin", {"sbatch": 'echo "sbatch: error: Invalid account brain" >&2; exit 1'})
    with (
        pytest.raises(WorkerError, match="does not accept the jobs") as caught,
        slurm_executor(2, settings(slurm), SharedFolders(written=slurm)),  # type: ignore[arg-type]
    ):
        pass
    assert "Invalid account brain" in str(caught.value.found) and "-cluster" in str(caught.value.remedy)


def test_unknown_partition_and_no_slurm(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = settings(slurm, partition="shrt")
    with (
        pytest.raises(UnknownNameError, match="shrt"),
        slurm_executor(1, wrong, SharedFolders(written=slurm)),  # type: ignore[arg-type]
    ):
        pass
    monkeypatch.setenv("PATH", str(slurm))
    with (
        pytest.raises(UsageError, match="no sbatch"),
        slurm_executor(1, wrong, SharedFolders(written=slurm)),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize(("text", "size"), [("48G", 48 * 2**30), ("500", 500 * 2**20), ("2t", 2**41), ("7K", 7168)])
def test_memory_as_slurm_writes_it(text: str, size: int) -> None:
    assert memory_bytes(text) == size
