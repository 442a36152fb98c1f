"""A workspace whose jobs run on a real SLURM."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nnunet_pt.cluster.status import WorkflowStatus, status_of

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
PATIENCE_S = 600
# Plans for so little memory make networks and patches that a CPU is done with in a moment
MEMORY = ("-gpu_memory_target", "0.005")
# A training that goes on until a file appears beside it, so that things can happen to it meanwhile
TRAINERS = """
import time
from dataclasses import replace
from pathlib import Path

from nnunet_pt.training.recipe import DEFAULT
from nnunet_pt.training.trainer import Trainer

Tiny = replace(
    DEFAULT, name="Tiny", num_epochs=2, iterations_per_epoch=2, validation_iterations_per_epoch=1, precision="fp32"
)


class Waiting(Trainer):
    recipe = replace(Tiny, name="Waiting", num_epochs=3)

    def train_step(self, data, targets):
        loss = super().train_step(data, targets)
        folder = Path(__file__).parent
        (folder / "trains").touch()
        end = time.monotonic() + 300
        while not (folder / "go").exists() and self.parts.signals.requested is None and time.monotonic() < end:
            time.sleep(0.05)
        return loss
"""


@dataclass
class World:
    """A workspace on a cluster.

    Attributes:
        root: Holds the three folders, the folder of the jobs and the trainers.
        setup: Lines of bash at the beginning of each job.
        options: More options of sbatch for all jobs.
        seen: Since when jobs that are queued again were seen to wait.
    """

    root: Path
    setup: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    seen: dict[str, float] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        own = {name: str(self.root / name) for name in FOLDERS}
        quiet = {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "0", "OMP_WAIT_POLICY": "passive"}
        path = f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **own, **quiet, "PATH": path, "PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": ""}

    def run(self, *words: str, status: int = 0, **environment: str) -> str:
        """Run a command, check its exit status, and give what it printed."""
        done = subprocess.run(
            words, cwd=self.root, env=self.environment | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def write(self, *words: str, limit: str = "1:00:00", signal_s: int = 60) -> Path:
        """Write the scripts of a workflow, and give their folder."""
        text = [
            f"signal_s = {signal_s}",
            f"setup = {self.setup!r}",
            f"options = {self.options!r}",
            'venv = ""\ncpus = 1\nmem = "400M"',
            f'time = "{limit}"',
            "[training]\ngpus = 0",
        ]
        (self.root / "cluster.toml").write_text("\n".join(text), encoding="utf-8")
        out = ["--out", "jobs", "-cluster", "cluster.toml"]
        said = self.run("nnUNetv2_slurm", *words, *out)
        found = re.search(r"submit\.sh in (.+)", said)
        assert found is not None, said
        return Path(found.group(1))

    def submit(self, folder: Path) -> None:
        self.run("bash", str(folder / "submit.sh"))

    def wait(self, folder: Path, *, until: Callable[[WorkflowStatus], bool] | None = None) -> WorkflowStatus:
        """Wait until no job of a folder is in the queue any more, or something else is so."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = status_of(folder)[0]
            if until is not None and until(found):
                return found
            if not {"running", "waiting", "requeued"} & set(states(found)):
                break
            self.hurry(folder)
            time.sleep(0.5)
        found = status_of(folder)[0]
        if until is not None:
            pytest.fail(f"it did not happen:\n{found.text()}\n{self.logs(folder)}")
        return found

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        end = time.monotonic() + PATIENCE_S / 10
        while not condition():
            assert time.monotonic() < end, self.run("scontrol", "show", "job")
            time.sleep(0.2)

    def hurry(self, folder: Path) -> None:
        """Let jobs that are queued again begin soon; SLURM makes them wait for two minutes."""
        queue = self.run("squeue", "--noheader", "--states=PENDING", "--format=%i|%r|%Z")
        for line in queue.splitlines():
            job, reason, where = line.split("|", 2)
            if reason == "BeginTime" and Path(where) == folder.resolve():
                # Not in the second in which it was stopped: SLURM would take it for the job that must not go on
                if time.monotonic() - self.seen.setdefault(job, time.monotonic()) > 1.5:
                    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
            else:
                self.seen.pop(job, None)

    def logs(self, folder: Path) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text()}" for p in sorted((folder / "logs").iterdir()))

    def finish(self, folder: Path) -> WorkflowStatus:
        """Wait for the end of all jobs, which must have succeeded."""
        found = self.wait(folder)
        assert set(states(found)) == {"done"}, f"{found.text()}\n{self.logs(folder)}"
        return found

    def contents(self, *folders: str) -> dict[str, bytes]:
        """Every file below folders of nnUNet_preprocessed, without manifests, which hold times."""
        root = self.root / "nnUNet_preprocessed"
        return {
            str(p.relative_to(root)): p.read_bytes()
            for folder in folders
            for p in sorted((root / folder).rglob("*"))
            if p.is_file() and not p.name.endswith(".manifest.jsonl") and not p.name.startswith(".")
        }


def processes_of(world: World) -> list[int]:
    """The trainings that run in a workspace."""
    done = subprocess.run(["pgrep", "-f", "nnunet_pt.cli.train "], capture_output=True, text=True, check=False)
    found = []
    for pid in map(int, done.stdout.split()):
        with contextlib.suppress(OSError):  # it may be gone by now
            if Path(f"/proc/{pid}/cwd").resolve() == world.root.resolve():
                found.append(pid)
    return found


def states(found: WorkflowStatus, step: str | None = None) -> list[str]:
    """How far the tasks of a step are, or all."""
    return [task.state for s in found.steps if step in (None, s.name) for task in s.tasks]
