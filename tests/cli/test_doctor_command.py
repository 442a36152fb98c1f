"""``nnUNetv2_doctor`` as a user and as a program call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.cli import doctor
from nnunet_pt.doctor import diagnosis as whole
from nnunet_pt.doctor import machine
from nnunet_pt.doctor.findings import Finding
from nnunet_pt.doctor.gpu import TorchBuild

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture(autouse=True)
def _ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three folders, torch as it should be, and no worker that has to be started."""
    for name in VARIABLES:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("NO_COLOR", "FORCE_COLOR", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    worker = Finding(key="machine.worker_start", title="starting a worker", status="ok", found="0.1 s")
    monkeypatch.setattr(machine, "_workers", lambda _: worker)
    monkeypatch.setattr(whole.TorchBuild, "of_this_process", lambda: TorchBuild(version="2.8.0"))
    # What this machine has, or lacks, is not the subject here
    monkeypatch.setattr("nnunet_pt.doctor.folders.LITTLE_SPACE", 0)
    monkeypatch.setattr("nnunet_pt.doctor.folders.TEMPORARY_SPACE", 0)
    monkeypatch.setattr(machine, "LITTLE_MEMORY", 0)
    monkeypatch.setattr(machine, "FEW_OPEN_FILES", 0)
    monkeypatch.setattr("nnunet_pt.doctor.gpu.cards", lambda _: 0)
    monkeypatch.setattr("nnunet_pt.doctor.gpu.driver", lambda _: None)


def test_a_healthy_machine_has_exit_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == "Folders"
    assert shown.out.splitlines()[-1].startswith("No problems")
    assert "\033" not in shown.out
    assert shown.err == ""


def test_a_problem_has_exit_status_1_and_comes_with_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_results")
    assert doctor.main([]) == 1
    shown = capsys.readouterr()
    assert "PROBLEM  nnUNet_results" in shown.out
    assert "export nnUNet_results=" in shown.out
    assert "1 problem was found" in shown.err


@pytest.mark.parametrize("healthy", [True, False])
def test_json_is_all_that_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], healthy: bool
) -> None:
    if not healthy:
        monkeypatch.delenv("nnUNet_raw")
    assert doctor.main(["--json"]) == (0 if healthy else 1)
    data = json.loads(capsys.readouterr().out)
    assert data["healthy"] is healthy
    assert data["dataset"] is None
    states = {f["key"]: f["status"] for f in data["findings"]}
    assert states["folders.nnUNet_raw"] == ("ok" if healthy else "problem")


def test_colours_only_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    doctor.main([])
    assert "\033[32mok\033[0m" in capsys.readouterr().out
    doctor.main(["--json"])
    assert "\033" not in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    doctor.main([])
    assert "\033" not in capsys.readouterr().out


def test_a_dataset_that_does_not_exist_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["-d", "77"]) == 1
    assert "There is no dataset with the number 77" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-time_limit", "0"], ["-d", "x"], ["-device", "tpu"]])
def test_wrong_arguments_have_exit_status_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        doctor.main(words)
    assert stop.value.code == 2


def test_arguments_become_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def look(request: whole.DoctorRequest) -> whole.Diagnosis:
        seen.append(request)
        return whole.Diagnosis(findings=())

    monkeypatch.setattr(whole, "diagnose", look)
    words = "-d 4 -c 2d 3d_fullres -p myPlans -tr myTrainer -device cpu -time_limit 30 --no_pbar"
    assert doctor.main(words.split()) == 0
    assert doctor.main([]) == 0
    assert seen == [
        whole.DoctorRequest(
            dataset=4,
            configurations=("2d", "3d_fullres"),
            plans_name="myPlans",
            trainer="myTrainer",
            device="cpu",
            time_limit_s=30.0,
            progress=False,
        ),
        whole.DoctorRequest(),
    ]


@pytest.mark.slow
def test_a_dataset_is_measured_in_real_workers(tiny_model_folder: Any, three: Any) -> None:
    tiny_model_folder(three)  # all networks of the plans become tiny
    three.plan()
    folders = {name: str(three.root / name.removeprefix("nnUNet_")) for name in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-m", "nnunet_pt.cli.doctor", "-d", "7", "-device", "cpu", "-time_limit", "300", "--json"],
        env={**os.environ, **folders},
        capture_output=True,
        text=True,
        check=False,
    )
    data = json.loads(done.stdout)
    assert done.returncode == (0 if data["healthy"] else 1)
    stages = data["dataset"]["stages"]
    assert len(stages) == 7
    assert all(s["seconds"] > 0 and s["memory_bytes"] > 50 << 20 for s in stages)
