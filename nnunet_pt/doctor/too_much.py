"""What a stage wants that the machine does not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nnunet_pt.doctor.findings import Finding, Status, gigabytes
from nnunet_pt.doctor.stages import Stage
from nnunet_pt.doctor.system import System

LONG_S = 7 * 86400.0
DISK_MARGIN = 1.05


def too_much(stages: Sequence[Stage], system: System, device: str) -> Iterator[Finding]:
    """Findings for everything that goes beyond memory, GPU, disk or patience.

    Args:
        stages: What each stage takes.
        system: The machine.
        device: Where networks compute.
    """
    for stage in stages:
        yield from _memory(stage, system)
        yield from _gpu_memory(stage, device)
        yield from _time(stage, device)
    yield from _disk(stages, system)


def _finding(kind: str, stage: Stage, status: Status, found: str, why: str, remedy: str, **values: Any) -> Finding:
    where = stage.name if stage.configuration is None else f"{stage.name} {stage.configuration}"
    return Finding(
        key=f"dataset.{kind}.{stage.name}" + ("" if stage.configuration is None else f".{stage.configuration}"),
        title=where,
        status=status,
        found=found,
        why=why,
        remedy=remedy,
        values=values,
    )


_REMEDIES = {
    "fingerprint": "use a machine with more memory, or crop the images",
    "preprocessing": "use a machine with more memory, or plan a coarser spacing:  nnUNetv2_plan_experiment -d ID"
    " -overwrite_target_spacing Z Y X -overwrite_plans_name coarsePlans",
    "training": "make smaller plans:  nnUNetv2_plan_experiment -d ID -gpu_memory_target 4 -overwrite_plans_name"
    " smallPlans;  fewer workers (export nnUNet_n_proc_DA=2) take less, too",
    "prediction": "read and write fewer cases at a time:  nnUNetv2_predict ... -npp 1 -nps 1",
}


def _memory(stage: Stage, system: System) -> Iterator[Finding]:
    free = system.memory
    if stage.out_of_memory:
        found = f"does not fit into the {gigabytes(free)} that are free: {stage.comment}"
        yield _finding("memory", stage, "problem", found, "it would fail", _REMEDIES[stage.name], free_bytes=free)
        return
    needed = stage.memory_bytes
    if needed is None or needed <= free:
        return
    # Cases wait for each other until the memory suffices; only one that is too large alone fails
    waits = stage.largest_bytes is not None and stage.largest_bytes <= free
    found = f"wants {gigabytes(needed)}, {gigabytes(free)} are free"
    yield _finding(
        "memory",
        stage,
        "note" if waits else "problem",
        found,
        "fewer cases are worked on at a time, which takes longer" if waits else "it would be killed, or fail",
        "nothing has to be done; more memory makes it faster" if waits else _REMEDIES[stage.name],
        needed_bytes=needed,
        free_bytes=free,
    )


def _gpu_memory(stage: Stage, device: str) -> Iterator[Finding]:
    needed = stage.gpu_memory_bytes
    if needed is None or not device.startswith("cuda"):
        return
    import torch

    free, total = torch.cuda.mem_get_info(torch.device(device))
    if needed <= free:
        return
    target = max(1, int(total / 2**30) - 1)
    yield _finding(
        "gpu_memory",
        stage,
        "problem",
        f"wants {gigabytes(needed)} of the GPU's memory, {gigabytes(free)} of {gigabytes(total)} are free",
        "it would end with an error of the GPU",
        "end what else uses the GPU (nvidia-smi)"
        if needed <= total
        else f"nnUNetv2_plan_experiment -d ID -gpu_memory_target {target} -overwrite_plans_name smallPlans",
        needed_bytes=needed,
        free_bytes=free,
        total_bytes=total,
    )


def _time(stage: Stage, device: str) -> Iterator[Finding]:
    if stage.name != "training" or stage.seconds is None or stage.seconds < LONG_S:
        return
    shorter = "train shorter (-epochs 250), or start from a trained model (nnUNetv2_finetune), which needs less"
    least = "more than " if stage.at_least else ""
    yield _finding(
        "time",
        stage,
        "note",
        f"takes {least}{stage.seconds / 86400:.0f} days for each fold",
        "five folds are five such trainings",
        shorter if device.startswith("cuda") else f"use a GPU; {shorter}",
        seconds=stage.seconds,
    )


def _disk(stages: Sequence[Stage], system: System) -> Iterator[Finding]:
    """Preprocessed data of all configurations together, and checkpoints of five folds."""
    settings = system.settings
    for name, folder, variable, folds in (
        ("preprocessing", settings.preprocessed, "nnUNet_preprocessed", 1),
        ("training", settings.results, "nnUNet_results", 5),
    ):
        needed = folds * sum(s.disk_bytes or 0 for s in stages if s.name == name)
        if folder is None or not folder.is_dir():
            continue
        free = system.space(folder).free
        if needed * DISK_MARGIN > free:
            yield Finding(
                key=f"dataset.disk.{name}",
                title=f"{name}: disk",
                status="problem",
                found=f"wants {gigabytes(needed)} in {folder}, {gigabytes(free)} are free",
                why="it would stop when the disk is full" + (" (for five folds)" if folds > 1 else ""),
                remedy=f"free some space, let {variable} name a folder on another disk, or choose one configuration"
                " (-c)",
                values={"needed_bytes": needed, "free_bytes": free},
            )
