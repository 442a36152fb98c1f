"""One training on two nodes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from slurm_jobs import MEMORY, World

from nnunet_pt.transfer.checkpoint import read_checkpoint

TRAIN = ("nnUNetv2_train", "902", "2d", "0", "-device", "cpu", "-seed", "7", "--deterministic", "--no_pbar")
ON_TWO_NODES = ("srun", "--nodes=2", "--ntasks-per-node=1", "--mem=400M")


TOLERANCE = 1e-5


def fold_of(world: World) -> Path:
    return world.root / "nnUNet_results" / "Dataset902_PhantomFinetune" / "Tiny__nnUNetPlans__2d" / "fold_0"


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
    # Single weights differ a little more: sums of 32-bit numbers in another order, whatever the nodes
    assert float((alone - weights(planned)).norm() / alone.norm()) <= TOLERANCE


def test_the_job_scripts_train_on_two_nodes(planned: World) -> None:
    words = ("crossval", "-d", "902", "-c", "2d", "-f", "0", "-tr", "trainers.py:Tiny", *MEMORY, "-nodes", "2")
    folder = planned.write(*words)
    planned.submit(folder)
    planned.finish(folder)
    log = next((folder / "logs").glob("train_902_2d_*.out")).read_text()
    assert "nnUNetv2_train 902 2d 0" in log and log.count("Training done.") == 1


def test_a_wrong_meeting_point_is_explained(planned: World) -> None:
    said = planned.run(*ON_TWO_NODES, *TRAIN, "-tr", "trainers.py:Tiny", status=1, MASTER_ADDR="nowhere.invalid")
    assert "cannot meet at nowhere.invalid" in said and "MASTER_ADDR" in said
