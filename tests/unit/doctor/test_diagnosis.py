"""The diagnosis as a whole: its JSON, which programs rely on, and its text, which people read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from nnunet_pt.core.errors import SettingsError
from nnunet_pt.doctor import diagnosis as whole
from nnunet_pt.doctor import machine as machine_checks
from nnunet_pt.doctor.diagnosis import Diagnosis, DoctorRequest, check, diagnose
from nnunet_pt.doctor.findings import GROUPS, Finding, gigabytes
from nnunet_pt.doctor.stages import DatasetPrediction, Stage
from nnunet_pt.doctor.text import diagnosis_text, span

GB = 1 << 30
KEYS = {"format", "healthy", "findings", "dataset"}
FINDING_KEYS = {"key", "status", "found", "why", "remedy", "values"}
DATASET_KEYS = {"name", "plans", "device", "cases", "stages", "measured_s"}
STAGE_KEYS = {
    *("name", "configuration", "memory_bytes", "largest_bytes", "gpu_memory_bytes", "unit", "unit_seconds", "units"),
    *("seconds", "at_least", "disk_bytes", "comment", "out_of_memory", "done"),
}
CHECKS = [
    *("folders.nnUNet_raw", "folders.nnUNet_preprocessed", "folders.nnUNet_results", "folders.temporary"),
    *("machine.cpus", "machine.load", "machine.instructions", "machine.memory", "machine.shared_memory"),
    *("machine.open_files", "machine.workers", "machine.worker_start"),
    *("gpu.none", "software.python", "software.packages", "software.torch", "software.compile"),
]


def finding(status: Any = "ok", key: str = "machine.cpus", **changes: Any) -> Finding:
    return Finding(**{"key": key, "title": "CPUs", "status": status, "found": "2 of 2", **changes})


def prediction(**changes: Any) -> DatasetPrediction:
    stages = (
        Stage(name="fingerprint", memory_bytes=GB, unit_seconds=0.5, units=110, seconds=55.0),
        Stage(name="preprocessing", configuration="2d", comment="did not end within 9 s"),
        Stage(
            name="training",
            configuration="2d",
            memory_bytes=2 * GB,
            disk_bytes=90 << 20,
            unit="epoch",
            unit_seconds=350.0,
            units=1000,
            seconds=350e3,
        ),
    )
    standard = {"dataset": "Dataset004_Hippocampus", "plans_name": "nnUNetPlans", "device": "cpu", "cases": 110}
    return DatasetPrediction(**{**standard, "stages": stages, "findings": (), "measured_s": 12.34, **changes})


def test_the_json_object_keeps_its_keys() -> None:
    data = json.loads(json.dumps(Diagnosis(findings=(finding(),), prediction=prediction()).to_json()))
    assert set(data) == KEYS
    assert data["format"] == 1
    assert all(set(f) == FINDING_KEYS for f in data["findings"])
    assert set(data["dataset"]) == DATASET_KEYS
    assert all(set(s) == STAGE_KEYS for s in data["dataset"]["stages"])


def test_the_checks_keep_their_names_and_order(machine: Any, torch_build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "_workers", lambda _: finding(key="machine.worker_start"))
    found = list(check(machine.system(), torch_build()))
    assert [f.key for f in found] == CHECKS
    assert {f.group for f in found} <= set(GROUPS)
    json.dumps(Diagnosis(findings=tuple(found)).to_json())


def test_every_finding_that_is_not_ok_says_why_and_what_to_do(
    machine: Any, torch_build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_checks, "_workers", lambda _: finding(key="machine.worker_start"))
    machine.flags("sse2")
    system = machine.system(affinity=1, open_files=(10, 10), env={"nnUNet_n_proc_DA": "99"})
    found = [f for f in check(system, torch_build(onednn=False)) if f.status != "ok"]
    assert len(found) >= 8
    assert all(f.why and f.remedy for f in found)


def test_healthy_means_without_problems() -> None:
    assert Diagnosis(findings=(finding(), finding("note"))).healthy
    sick = Diagnosis(findings=(finding(), finding("problem")))
    assert not sick.healthy
    assert [f.status for f in sick.problems] == ["problem"]


def test_text_groups_aligns_and_advises() -> None:
    findings = (
        finding(key="folders.nnUNet_raw", title="nnUNet_raw", found="/data, 9.0 GB free"),
        finding("problem", title="memory", found="1.0 GB free", why="it is little", remedy="buy more"),
        finding("note"),
    )
    assert diagnosis_text(Diagnosis(findings=findings)).splitlines() == [
        "Folders",
        "  ok       nnUNet_raw  /data, 9.0 GB free",
        "",
        "Machine",
        "  PROBLEM  memory      1.0 GB free",
        "                       why    it is little",
        "                       to do  buy more",
        "  note     CPUs        2 of 2",
        "",
        "1 problem, 1 note",
    ]


@pytest.mark.parametrize("width", [60, 80, 110])
def test_lines_keep_the_width(width: int) -> None:
    long = finding("problem", found="word " * 60, why="reason " * 60, remedy="deed " * 60)
    lines = diagnosis_text(Diagnosis(findings=(long,)), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) > 8


def test_the_table_of_stages() -> None:
    text = diagnosis_text(Diagnosis(findings=(), prediction=prediction()))
    assert re.search(r"^Dataset004_Hippocampus, nnUNetPlans: 110 cases, networks on cpu, measured in 12 s$", text, re.M)
    assert re.search(r"fingerprint +1\.0 GB +0\.5 s for a case, 55 s for 110 cases$", text, re.M)
    assert re.search(r"training +2d +2\.0 GB +90 MB +5:50 min for an epoch, 4\.1 days for 1000 epochs$", text, re.M)
    assert "not measured" in text
    assert "preprocessing 2d: did not end within 9 s" in text
    assert "GPU memory" not in text


def test_gpu_memory_has_a_column_only_where_there_is_a_gpu() -> None:
    stage = Stage(name="training", configuration="2d", memory_bytes=GB, gpu_memory_bytes=7 * GB)
    text = diagnosis_text(Diagnosis(findings=(), prediction=prediction(stages=(stage,), device="cuda:0")))
    assert "GPU memory" in text
    assert "7.0 GB" in text


def test_colours_do_not_disturb_the_alignment() -> None:
    findings = (finding(), finding("problem", why="w", remedy="r"))

    def paint(text: str, _style: Any) -> str:
        return f"\033[1m{text}\033[0m"

    coloured = diagnosis_text(Diagnosis(findings=findings), paint=paint)
    assert "\033[1mPROBLEM\033[0m" in coloured
    assert re.sub("\033\\[[01]m", "", coloured) == diagnosis_text(Diagnosis(findings=findings))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "40 ms"),
        (0.3, "0.3 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1:00 min"),
        (350, "5:50 min"),
        (3599.7, "1:00 h"),
        (7290, "2:02 h"),
        (86400, "24:00 h"),
        (200000, "2.3 days"),
    ],
)
def test_time_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_sizes() -> None:
    assert [gigabytes(n) for n in (5 << 20, GB, 1.26 * GB, 139 * GB)] == ["5 MB", "1.0 GB", "1.3 GB", "139 GB"]


def test_an_impossible_variable_is_a_finding_and_not_the_end(
    monkeypatch: pytest.MonkeyPatch, torch_build: Callable[..., Any]
) -> None:
    monkeypatch.setenv("nnUNet_def_n_proc", "many")
    monkeypatch.setattr(machine_checks, "_workers", lambda _: finding(key="machine.worker_start"))
    monkeypatch.setattr(whole.TorchBuild, "of_this_process", lambda: torch_build())
    found = diagnose(DoctorRequest(dataset=4))
    assert found.findings[0].key == "folders.environment"
    assert found.findings[0].status == "problem"
    assert "nnUNet_def_n_proc" in found.findings[0].found
    assert found.prediction is None
    with pytest.raises(SettingsError):
        from nnunet_pt.core.settings import Settings

        Settings.from_environment()
