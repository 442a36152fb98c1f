"""What goes beyond memory, disk or patience is found, with advice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.doctor.findings import Finding
from nnunet_pt.doctor.stages import Stage
from nnunet_pt.doctor.system import Space
from nnunet_pt.doctor.too_much import too_much

GB = 1 << 30
DAY = 86400.0


def found_for(machine: Any, *stages: Stage, **changes: Any) -> list[Finding]:
    return list(too_much(stages, machine.system(**changes), "cpu"))


def test_what_fits_is_not_mentioned(machine: Any) -> None:
    training = Stage(name="training", configuration="2d", memory_bytes=3 * GB, seconds=DAY, unit_seconds=86.4)
    assert found_for(machine, Stage(name="fingerprint", memory_bytes=GB), training) == []


def test_a_training_that_does_not_fit_is_a_problem(machine: Any) -> None:
    (finding,) = found_for(machine, Stage(name="training", configuration="3d_fullres", memory_bytes=60 * GB))
    assert (finding.status, finding.key) == ("problem", "dataset.memory.training.3d_fullres")
    assert finding.found == "wants 60.0 GB, 48.0 GB are free"
    assert "-gpu_memory_target" in finding.remedy
    assert finding.values == {"needed_bytes": 60 * GB, "free_bytes": 48 * GB}


@pytest.mark.parametrize(("largest", "status"), [(10 * GB, "note"), (50 * GB, "problem")])
def test_cases_wait_for_each_other_but_one_must_fit(machine: Any, largest: int, status: str) -> None:
    stage = Stage(name="preprocessing", configuration="2d", memory_bytes=60 * GB, largest_bytes=largest)
    (finding,) = found_for(machine, stage)
    assert finding.status == status


def test_a_measurement_that_ran_out_of_memory_is_a_problem(machine: Any) -> None:
    stage = Stage(name="training", configuration="2d", comment="cannot allocate 9 bytes", out_of_memory=True)
    (finding,) = found_for(machine, stage)
    assert finding.status == "problem"
    assert "cannot allocate 9 bytes" in finding.found


@pytest.mark.parametrize(("at_least", "words"), [(False, "takes 20 days"), (True, "takes more than 20 days")])
def test_long_trainings_are_noted(machine: Any, at_least: bool, words: str) -> None:
    stage = Stage(name="training", configuration="2d", unit_seconds=1.0, seconds=20 * DAY, at_least=at_least)
    (finding,) = found_for(machine, stage)
    assert finding.status == "note"
    assert finding.found.startswith(words)
    assert "nnUNetv2_finetune" in finding.remedy


def test_full_disks_are_problems(machine: Any, tmp_path: Path) -> None:
    env = {"nnUNet_preprocessed": str(tmp_path), "nnUNet_results": str(tmp_path)}
    stages = [
        Stage(name="preprocessing", configuration="2d", disk_bytes=6 * GB),
        Stage(name="preprocessing", configuration="3d_fullres", disk_bytes=5 * GB),
        Stage(name="training", configuration="2d", disk_bytes=GB),
    ]
    (finding,) = found_for(machine, *stages, env=env, space=lambda _: Space(10 * GB))
    assert finding.key == "dataset.disk.preprocessing"
    assert finding.status == "problem"
    assert finding.found == f"wants 11.0 GB in {tmp_path}, 10.0 GB are free"
    both = found_for(machine, *stages, env=env, space=lambda _: Space(3 * GB))
    assert [f.key for f in both] == ["dataset.disk.preprocessing", "dataset.disk.training"]  # five folds
    assert found_for(machine, *stages, env=env, space=lambda _: Space(100 * GB)) == []
