"""What ``job.sh`` does around a command, with a stand-in for ``scontrol``; with the real one in tests/slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_world import commands, written

# Tells what it was started with, and ends as it is told to
COMMAND = """
echo "$@" >> ../../started
for name in TERM USR1; do trap "echo $name >> ../../signals; sleep 0.3; exit ${AFTER_SIGNAL:-7}" "$name"; done
: > ../../ready
if [ -n "${WAIT:-}" ]; then for i in $(seq 200); do sleep 0.05; done; fi
exit "${STATUS:-0}"
"""
SCONTROL = 'echo "$@" >> ../../requeued; exit "${SCONTROL_STATUS:-0}"'


class Job:
    """The script of a training, run without SLURM."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.script = written(root).scripts[3]
        names = {"nnUNetv2_train": COMMAND, "scontrol": SCONTROL}
        ours = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "1"}
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "nnUNet_"))},
            **ours,
            "SLURM_JOB_NAME": "train_16_3d_fullres",
            "SLURMD_NODENAME": "node7",
            "PATH": commands(root / "bin", names),
        }
        self.process: subprocess.Popen[str] | None = None

    @property
    def fold(self) -> Path:
        return self.root / "res" / "Dataset016_Spine" / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_1"

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start, and wait until the command runs."""
        (self.root / "ready").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            ["bash", self.script.name],
            cwd=self.script.parent,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        end = time.monotonic() + 20
        while not (self.root / "ready").exists() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        return self.process

    def run(self, **environment: str) -> tuple[int, str]:
        process = self.start(**environment)
        out, _ = process.communicate(timeout=30)
        return process.returncode, out

    def noted(self) -> list[str]:
        return (self.script.parent / "states" / "train_16_3d_fullres.1").read_text().split()

    def lines(self, name: str) -> list[str]:
        file = self.root / name
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.communicate()


def test_a_job_notes_that_it_is_done(job: Job) -> None:
    status, out = job.run()
    assert (status, job.noted()[:4]) == (0, ["done", "12", "11", "node7"])
    assert job.lines("started") == ["16 3d_fullres 1 --no_pbar"]
    assert "$ nnUNetv2_train 16 3d_fullres 1 --no_pbar" in out
    assert job.lines("requeued") == []


def test_a_job_fails_as_its_command_does(job: Job) -> None:
    assert job.run(STATUS="5")[0] == 5
    assert job.noted()[0] == "failed" and job.noted()[-3:] == ["exit", "status", "5"]
    assert job.lines("requeued") == []


def test_near_the_time_limit_the_command_saves_and_the_job_is_queued_again(job: Job) -> None:
    process = job.start(WAIT="1")
    process.send_signal(signal.SIGUSR1)
    assert job.noted()[0] == "running"
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert job.lines("signals") == ["TERM"]
    assert job.lines("requeued") == ["requeue 11_1"]
    assert job.noted()[0] == "requeued"


def test_what_srun_has_started_is_told_by_slurm(job: Job) -> None:
    scancel = 'echo "$@" >> ../../cancelled; kill -s USR2 "$(cat ../../srun)"'
    srun = f"echo $$ > ../../srun; shift; trap 'exit 143' USR2\n{COMMAND}"
    commands(job.root / "bin", {"srun": srun, "scancel": scancel})
    text = job.script.read_text().replace("run nnUNetv2_train", "run srun -n2 nnUNetv2_train")
    job.script.write_text(text, encoding="utf-8")
    process = job.start(WAIT="1")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert (process.returncode, job.lines("signals"), job.noted()[0]) == (0, [], "requeued")
    assert (job.lines("cancelled"), job.lines("requeued")) == (["--signal=TERM 11_1"], ["requeue 11_1"])


def test_a_command_that_finishes_near_the_time_limit_is_done(job: Job) -> None:
    process = job.start(WAIT="1", AFTER_SIGNAL="0")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=30)
    assert (process.returncode, job.noted()[0], job.lines("requeued")) == (0, "done", [])


def test_a_cancelled_job_lets_its_command_save(job: Job) -> None:
    process = job.start(WAIT="1")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 7
    assert (job.lines("signals"), job.lines("requeued")) == (["TERM"], [])
    assert job.noted()[0] == "failed"


def test_a_job_that_cannot_be_queued_again_says_so(job: Job) -> None:
    process = job.start(WAIT="1", SCONTROL_STATUS="1")
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1 and "submit it again to go on" in out
    assert job.noted()[0] == "failed"


def test_a_job_does_not_go_round_for_ever(job: Job) -> None:
    process = job.start(WAIT="1", SLURM_RESTART_COUNT="100")
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 1 and "queued again 100 times" in out
    assert job.lines("requeued") == []


def test_a_training_continues_from_a_checkpoint_and_is_not_done_twice(job: Job) -> None:
    job.fold.mkdir(parents=True)
    (job.fold / "checkpoint_latest.pth").touch()
    assert job.run()[0] == 0
    (job.fold / "checkpoint_latest.pth").rename(job.fold / "checkpoint_final.pth")
    assert job.run()[0] == 0  # the final validation is missing
    assert job.lines("started") == ["16 3d_fullres 1 --c --no_pbar"] * 2
    (job.fold / "validation").mkdir()
    (job.fold / "validation" / "summary.json").touch()
    status, out = job.run()
    assert status == 0 and "Finished before: " in out
    assert len(job.lines("started")) == 2


def test_nothing_is_started_on_a_node_that_does_not_see_the_folders(job: Job) -> None:
    (job.root / "res" / ".nnunet_slurm").unlink()
    status, out = job.run()
    assert status == 1 and "node7 does not see the folder" in out
    assert job.lines("started") == [] and job.noted()[0] == "failed"


def test_a_script_runs_without_slurm_too(job: Job) -> None:
    env = {k: v for k, v in job.environment.items() if not k.startswith("SLURM") or k == "SLURM_ARRAY_TASK_ID"}
    done = subprocess.run(["bash", job.script.name], cwd=job.script.parent, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (job.script.parent / "states" / f"{job.script.stem}.1").read_text().startswith("done none none ")
