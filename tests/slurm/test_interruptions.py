"""Jobs that do not come to their end at once: time limits, cancelled and killed jobs, nodes without the data."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from slurm_jobs import MEMORY, World, states

WAITING = ("crossval", "-d", "902", "-c", "2d", "-f", "0", "-tr", "trainers.py:Waiting", *MEMORY)
TRAIN = "train_902_2d"


def begin_training(world: World, **options: object) -> Path:
    """Submit a training that goes on until it is let go, and wait until it trains."""
    folder = world.write(*WAITING, **options)  # type: ignore[arg-type]
    world.submit(folder)
    world.wait(folder, until=lambda _: (world.root / "trains").exists())
    return folder


def job_of(world: World, name: str) -> str:
    """Number of the job that runs under a name."""
    queue = world.run("squeue", "--noheader", f"--name={name}", "--states=RUNNING", "--format=%A|%Z")
    return next(line.split("|")[0] for line in queue.splitlines() if str(world.root) in line)


def epochs(world: World) -> list[int]:
    """Numbers of the epochs that were trained."""
    model = world.root / "nnUNet_results" / "Dataset902_PhantomFinetune" / "Waiting__nnUNetPlans__2d"
    return [json.loads(line)["epoch"] for line in (model / "fold_0" / "progress.jsonl").read_text().splitlines()]


def finish_continued(world: World, folder: Path, starts: int) -> None:
    """Let the training go; it must end, and have gone on where it stopped."""
    (world.root / "go").touch()
    world.finish(folder)
    log = next((folder / "logs").glob(f"{TRAIN}_*.out")).read_text()
    assert len(re.findall(r"^== .* start \d+$", log, re.MULTILINE)) == starts
    assert "--c --no_pbar" in log
    assert epochs(world) == [0, 1, 2]


def test_a_training_saves_before_its_time_limit_and_goes_on_afterwards(planned: World) -> None:
    folder = begin_training(planned, limit="2", signal_s=60)
    found = planned.wait(folder, until=lambda now: "requeued" in states(now, TRAIN))
    assert states(found, "best_902") == ["waiting"]
    finish_continued(planned, folder, starts=2)


def test_a_training_on_two_nodes_saves_before_its_time_limit(planned: World) -> None:
    folder = planned.write(*WAITING, "-nodes", "2")
    planned.submit(folder)
    planned.wait(folder, until=lambda _: (planned.root / "trains").exists())
    planned.run("scancel", "--batch", "--signal=USR1", job_of(planned, TRAIN))  # as SLURM does near the limit
    planned.wait(folder, until=lambda now: "requeued" in states(now, TRAIN))
    finish_continued(planned, folder, starts=2)


@pytest.mark.slow  # near its time limit the same happens, see above
def test_a_job_that_is_queued_again_by_hand_goes_on(planned: World) -> None:
    folder = begin_training(planned)
    planned.run("scontrol", "requeue", job_of(planned, TRAIN))
    planned.wait(folder, until=lambda now: states(now, TRAIN) != ["running"])
    finish_continued(planned, folder, starts=2)


def test_a_cancelled_training_says_so_and_goes_on_when_it_is_submitted_again(planned: World) -> None:
    folder = begin_training(planned)
    planned.run("scancel", job_of(planned, TRAIN))
    found = planned.wait(folder)
    assert states(found, TRAIN) == ["cancelled"] and states(found, "best_902") == ["cancelled"]
    assert states(found, "preprocess_902") == ["done"]
    said = planned.run("nnUNetv2_slurm", "status", "jobs")
    assert f"bash {folder / 'submit.sh'}" in said and "sbatch --array=0 04_train_902_2d.sh" in said
    (planned.root / "go").touch()
    planned.submit(folder)
    planned.finish(folder)
    assert "--c --no_pbar" in planned.logs(folder)


def test_a_killed_command_is_told_with_the_end_of_its_log(planned: World) -> None:
    folder = begin_training(planned)
    done = subprocess.run(
        ["pgrep", "-f", f"cli.train 902 2d 0 .*{planned.root}"], capture_output=True, text=True, check=True
    )
    for pid in map(int, done.stdout.split()):
        os.kill(pid, signal.SIGKILL)
    found = planned.wait(folder)
    assert states(found, TRAIN) == ["failed"] and states(found, "best_902") == ["cancelled"]
    task = found.steps[3].tasks[0]
    assert task.why == "exit status 137" and task.lines
    (planned.root / "go").touch()
    planned.run("bash", "-c", f"cd {folder} && {(found.steps[3].again() or '').replace('sbatch', 'sbatch --wait')}")
    assert epochs(planned) == [0, 1, 2]


# The real command, until there is a first case; then it stands still
FREEZING = """#!/bin/bash
{root}/bin/nnUNetv2_preprocess "$@" &
until compgen -G "{data}/*.b2nd" > /dev/null; do sleep 0.01; done
kill -STOP $!
touch {root}/frozen
sleep 300
"""


def test_preprocessing_that_is_queued_again_in_the_middle_makes_the_same_files(world: World, planned: World) -> None:
    dataset = "Dataset902_PhantomFinetune"
    data = world.root / "nnUNet_preprocessed" / dataset / "nnUNetPlans_2d"
    (world.root / "freezing").mkdir()
    command = world.root / "freezing" / "nnUNetv2_preprocess"
    command.write_text(FREEZING.format(root=world.root, data=data), encoding="utf-8")
    command.chmod(0o755)
    world.setup = [f'if [ -z "${{SLURM_RESTART_COUNT:-}}" ]; then export PATH={world.root / "freezing"}:$PATH; fi']
    folder = world.write("crossval", "-d", "902", "-c", "2d", "-f", "0", "-tr", "trainers.py:Tiny", *MEMORY)
    world.submit(folder)
    world.wait(folder, until=lambda _: (world.root / "frozen").exists())
    complete = planned.contents(f"{dataset}/nnUNetPlans_2d")
    assert len(list(data.glob("*.pkl"))) < sum(name.endswith(".pkl") for name in complete)
    world.run("scontrol", "requeue", job_of(world, "preprocess_902"))
    world.finish(folder)
    assert world.contents(f"{dataset}/nnUNetPlans_2d") == complete


# ---------------------------------------------------------------- nodes that see other folders


def failed_on_node2(world: World, setup: str) -> str:
    """Let the jobs run on the second node, where something is otherwise; gives what the status says."""
    world.setup = [f'if [ "$SLURMD_NODENAME" = node2 ]; then {setup}; fi']
    world.options = ["--nodelist=node2"]
    folder = world.write("crossval", "-d", "902", "-c", "2d", *MEMORY)
    job = folder / "job.sh"  # the folders come after the software
    lines = job.read_text().splitlines()
    where = next(i for i, line in enumerate(lines) if line.startswith("export nnUNet_results"))
    lines.insert(where + 1, world.setup[0])
    job.write_text("\n".join(lines) + "\n", encoding="utf-8")
    world.submit(folder)
    found = world.wait(folder)
    assert states(found, "fingerprint_902") == ["failed"] and states(found, "plan_902") == ["cancelled"]
    return world.run("nnUNetv2_slurm", "status", "jobs")


def test_a_folder_that_nodes_do_not_share_is_explained(world: World) -> None:
    said = failed_on_node2(world, f"export nnUNet_results={world.root / 'local'}; mkdir -p {world.root / 'local'}")
    assert f"Error: node node2 does not see the folder {world.root / 'local'}" in said
    assert "choose a folder that all nodes share" in said


def test_one_node_without_the_data_is_named(world: World) -> None:
    said = failed_on_node2(world, f"export nnUNet_raw={world.root / 'nothing'}")
    assert "Error: node node2 does not see the data of Dataset902_PhantomFinetune" in said
    assert "--exclude=node2" in said


def test_an_unknown_partition_is_refused_and_nothing_stays_submitted(world: World) -> None:
    said = world.run("nnUNetv2_slurm", *WAITING, "--out", "jobs", "-partition", "fast", "--submit", status=1)
    assert "There is no partition called 'fast'" in said and "main" in said
    folder = world.write(*WAITING)
    script = folder / "04_train_902_2d.sh"
    script.write_text(script.read_text().replace("#SBATCH --nodes=1", "#SBATCH --nodes=1\n#SBATCH --partition=fast"))
    said = world.run("bash", str(folder / "submit.sh"), status=1)
    assert "SLURM refuses 04_train_902_2d.sh" in said and "partition" in said
    assert set(states(world.wait(folder))) <= {"done", "cancelled", "not submitted"}
