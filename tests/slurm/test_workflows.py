"""Whole workflows run by SLURM, from raw images to the best model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from slurm_jobs import MEMORY, World, states

TINY = ("-tr", "trainers.py:Tiny")


def test_pretraining_and_finetuning_run_to_the_end(world: World) -> None:
    datasets = ("-pretrain", "901", "-finetune", "902")
    folder = world.write("pretrain_finetune", *datasets, "-c", "2d", "-f", "0", "1", *MEMORY, *TINY, "-parts", "2")
    world.submit(folder)
    found = world.finish(folder)
    assert len(states(found)) == 2 + 2 + 1 + 2 + 2 + 1 + 2 + 1
    results = world.root / "nnUNet_results"
    pretrained = results / "Dataset901_PhantomPretrain" / "Tiny__pretrainPlans__2d" / "fold_all"
    assert (pretrained / "checkpoint_final.pth").is_file()
    model = results / "Dataset902_PhantomFinetune" / "Tiny__pretrainPlans_from_901__2d"
    for fold in (0, 1):
        report = json.loads((model / f"fold_{fold}" / "transfer_report.json").read_text())
        assert str(pretrained / "checkpoint_final.pth") in json.dumps(report)
        assert (model / f"fold_{fold}" / "validation" / "summary.json").is_file()
    assert (model / "crossval_results_folds_0_1" / "summary.json").is_file()
    said = world.run("nnUNetv2_slurm", "status", "jobs")
    assert "done" in said and "failed" not in said

    # The same jobs once more find nothing to do
    times = {p: p.stat().st_mtime_ns for p in results.rglob("checkpoint_final.pth")}
    world.submit(folder)
    world.finish(folder)
    assert {p: p.stat().st_mtime_ns for p in times} == times


@pytest.mark.slow  # the page about SLURM does the same, see test_page.py
def test_crossvalidation_chooses_the_best_of_two_configurations(world: World) -> None:
    words = ("crossval", "-d", "902", "-c", "2d", "3d_fullres", "-f", "0", "1", *MEMORY, *TINY)
    said = world.run("nnUNetv2_slurm", *words, "--out", "elsewhere")
    assert "Look at them" in said
    folder = world.write(*words)
    world.submit(folder)
    world.finish(folder)
    assert (world.root / "nnUNet_results" / "Dataset902_PhantomFinetune" / "inference_instructions.txt").is_file()


def test_parts_make_the_same_files_as_one_job(world: World, planned: World) -> None:
    folder = world.write("crossval", "-d", "902", "-c", "2d", "-f", "0", *MEMORY, *TINY, "-parts", "3")
    for script in (*folder.glob("*_train_*.sh"), *folder.glob("*_best_*.sh")):
        _leave_out(folder, script)
    world.submit(folder)
    world.finish(folder)
    dataset = "Dataset902_PhantomFinetune"
    assert world.contents(dataset) == planned.contents(dataset)


def _leave_out(folder: Path, script: Path) -> None:
    """As somebody would who edits the scripts."""
    submit = folder / "submit.sh"
    lines = submit.read_text().splitlines(keepends=True)
    submit.write_text("".join(line for line in lines if script.name not in line), encoding="utf-8")
    script.unlink()
