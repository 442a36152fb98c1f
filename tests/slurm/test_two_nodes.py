"""One training on two nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from slurm_jobs import MEMORY, World, processes_of

from nnunet_pt.transfer.checkpoint import read_checkpoint

TRAIN = ("nnUNetv2_train", "902", "2d", "0", "-device", "cpu", "-seed", "7", "--deterministic", "--no_pbar")
ON_TWO_NODES = ("srun", "--nodes=2", "--ntasks-per-node=1", "--mem=400M")


TOLERANCE = 1e-5


def fold_of(world: World, trainer: str = "Tiny") -> Path:
    return world.root / "nnUNet_results" / "Dataset902_PhantomFinetune" / f"{trainer}__nnUNetPlans__2d" / "fold_0"


def weights(world: World) -> torch.Tensor:
    """All weights in one vector."""
    checkpoint = read_checkpoint(fold_of(world) / "checkpoint_final.pth")
    return torch.cat([value.double().flatten() for value in checkpoint.network_weights.values()])


def figures(world: World) -> list[float]:
    """Losses and Dice of all epochs."""
    epochs = [json.loads(line) for line in (fold_of(world) / "progress.jsonl").read_text().splitlines()]
    names = ("train_loss", "val_loss", "mean_fg_dice", "ema_fg_dice")
    return [epoch[name] for epoch in epochs for name in names]


def test_a_training_on_two_nodes_equals_one_on_one(planned: World) -> None:
    trainer = ("-tr", "trainers.py:Tiny")
    planned.run(*TRAIN, *trainer)
    alone, figures_alone = weights(planned), figures(planned)
    said = planned.run(*ON_TWO_NODES, *TRAIN, *trainer)
    assert said.count("Training done.") == 1
    assert len(figures_alone) == 8
    assert max(abs(a - b) for a, b in zip(figures_alone, figures(planned), strict=True)) <= TOLERANCE
    together = weights(planned)
    # 6e-8 here, and 2.4e-7 after 50 updates: units of the last place of 32-bit numbers, added up in another order.
    # Gradients that are weighted or shared out wrongly would be seen at the first update.
    assert float((alone - together).abs().max()) <= TOLERANCE


@pytest.mark.slow  # test_interruptions.py does the same, with an interruption
def test_the_job_scripts_train_on_two_nodes(planned: World) -> None:
    words = ("crossval", "-d", "902", "-c", "2d", "-f", "0", "-tr", "trainers.py:Tiny", *MEMORY, "-nodes", "2")
    folder = planned.write(*words)
    planned.submit(folder)
    planned.finish(folder)
    log = next((folder / "logs").glob("train_902_2d_*.out")).read_text()
    assert "nnUNetv2_train 902 2d 0" in log and log.count("Training done.") == 1


def test_results_that_nodes_do_not_share_are_explained_before_the_training(planned: World) -> None:
    script = """if [ "$SLURM_PROCID" = 1 ]; then export nnUNet_results=$PWD/elsewhere; fi; exec "$@" """
    said = planned.run(*ON_TWO_NODES, "bash", "-c", script, "-", *TRAIN, "-tr", "trainers.py:Tiny", status=1)
    assert "Not all machines of this training see the same folder" in said
    assert not list(fold_of(planned).iterdir())


OWN_SCRIPT = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --mem=400M --time=10 --output=job.out --open-mode=append
#SBATCH --signal=USR1@300 --requeue
srun nnUNetv2_train 902 2d 0 -device cpu -tr trainers.py:Waiting --no_pbar --requeue
"""


def test_a_script_of_ones_own_is_queued_again_and_continues(planned: World) -> None:
    (planned.root / "job.sh").write_text(OWN_SCRIPT, encoding="utf-8")
    job = planned.run("sbatch", "--parsable", "job.sh").strip()
    planned.wait_for(lambda: (planned.root / "trains").exists())
    planned.run("scancel", "--signal=USR1", job)  # as SLURM does near the limit
    planned.wait_for(lambda: "JobState=PENDING" in planned.run("scontrol", "show", "job", job))
    log = planned.root / "job.out"
    assert "SIGUSR1 stopped the training in epoch 0, iteration 1. Its state is saved" in log.read_text()
    (planned.root / "go").touch()

    def is_completed() -> bool:
        planned.hurry(planned.root)
        return "JobState=COMPLETED" in planned.run("scontrol", "show", "job", job)

    planned.wait_for(is_completed)
    said = log.read_text()
    assert said.count(f"Job {job} is queued again.") == 1
    assert "Continuing from checkpoint_latest.pth: epoch 0, iteration 1." in said
    assert said.count("Training done.") == 1


def test_a_process_that_is_killed_is_named_with_its_node_and_the_training_continues(planned: World) -> None:
    command = (*TRAIN, "-tr", "trainers.py:Waiting")
    step = subprocess.Popen(
        [*ON_TWO_NODES, *command],
        cwd=planned.root,
        env=planned.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    planned.wait_for(lambda: (planned.root / "trains").exists())
    victim = next(pid for pid in processes_of(planned) if "SLURM_PROCID=1" in Path(f"/proc/{pid}/environ").read_text())
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    (planned.root / "go").touch()
    said = step.communicate(timeout=100)[0]
    assert step.returncode != 0 and time.monotonic() - began < 60
    assert said.count("Process 1 of 2 (on node2) is lost, so this training ends.") == 1
    planned.run(*ON_TWO_NODES, *command, "--c")
    assert (fold_of(planned, "Waiting") / "validation" / "summary.json").is_file()


def test_a_wrong_meeting_point_is_explained(planned: World) -> None:
    said = planned.run(*ON_TWO_NODES, *TRAIN, "-tr", "trainers.py:Tiny", status=1, MASTER_ADDR="nowhere.invalid")
    assert said.count("cannot meet at nowhere.invalid") == 2 and said.count("set MASTER_ADDR") == 1
