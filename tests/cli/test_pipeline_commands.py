"""The commands on small artificial datasets, as a user runs them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

FINETUNE = "Dataset902_PhantomFinetune"
PRETRAIN = "Dataset901_PhantomPretrain"


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


Run = Callable[[str], Ended]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs ``"preprocess -d 902"`` in this process."""

    def execute(line: str) -> Ended:
        module, *arguments = line.split()
        try:
            status = import_module(f"nnunet_pt.cli.{module}").main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err or "--verbose" in line
        return Ended(status, captured.out, captured.err)

    return execute


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def pre(tmp_path: Path) -> Path:
    return tmp_path / "nnUNet_preprocessed"


fresh = pytest.mark.usefixtures("phantom_workspace")
measured = pytest.mark.usefixtures("measured_workspace")


def leftovers(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.name.startswith(".partial-")]


@fresh
def test_pretraining_story_from_raw_images_to_matching_data(run: Run, pre: Path) -> None:
    first = run("plan_and_preprocess -d 902 --verify_dataset_integrity -c 3d_fullres -np 2")
    assert first.status == 0, first.err
    assert "nothing to complain about" in first.out
    assert "GPU" in first.out and "3d_fullres" in first.out
    cases = [f"phantomtr_{i:03d}" for i in range(5)]
    data = pre / FINETUNE / "nnUNetPlans_3d_fullres"
    assert sorted(p.name for p in data.iterdir()) == sorted(
        name for c in cases for name in (f"{c}.b2nd", f"{c}_seg.b2nd", f"{c}.pkl")
    )
    before = {p.name: p.stat().st_mtime_ns for p in data.iterdir()}

    again = run("plan_and_preprocess -d 902 -c 3d_fullres")
    assert again.status == 0 and "0 preprocessed, 5 already there" in again.out
    assert {p.name: p.stat().st_mtime_ns for p in data.iterdir()} == before

    assert run("extract_fingerprint -d 901").status == 0
    moved = run("move_plans_between_datasets -s 902 -t 901 -sp nnUNetPlans -tp pretrainPlans")
    assert moved.status == 0 and str(pre / PRETRAIN / "pretrainPlans.json") in moved.out
    plans = json.loads((pre / PRETRAIN / "pretrainPlans.json").read_text())
    assert (plans["dataset_name"], plans["plans_name"]) == (PRETRAIN, "pretrainPlans")

    done = run("preprocess -d 901 -plans_name pretrainPlans -c 3d_fullres -np 2")
    assert done.status == 0
    data = pre / PRETRAIN / "pretrainPlans_3d_fullres"
    assert len(list(data.glob("*.pkl"))) == 6

    damaged = data / "phantomtr_002.b2nd"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    verified = run("preprocess -d 901 -plans_name pretrainPlans -c 3d_fullres --verify")
    assert verified.status == 0 and "phantomtr_002" in verified.out and "5 already there" in verified.out
    assert not leftovers(pre)


@measured
def test_several_datasets_follow_one_another(run: Run, pre: Path) -> None:
    ended = run("plan_and_preprocess -d 901 902 --no_pp -pl nnUNetPlannerResEncM")
    assert ended.status == 0
    for dataset in (PRETRAIN, FINETUNE):
        assert (pre / dataset / "nnUNetResEncUNetMPlans.json").is_file()
    assert "Hint" not in ended.out


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


@measured
def test_broken_case_is_named_and_the_others_are_finished_on_request(run: Run, raw: Path, pre: Path) -> None:
    truncate(raw / FINETUNE / "imagesTr" / "phantomtr_003_0000.nii.gz")

    stopped = run("preprocess -d 902 -c 3d_fullres -np 1")
    assert stopped.status == 1
    assert "phantomtr_003" in stopped.err

    continued = run("preprocess -d 902 -c 3d_fullres -np 1 --continue_on_error")
    assert continued.status == 1
    assert "1 case failed: phantomtr_003" in continued.err
    data = pre / FINETUNE / "nnUNetPlans_3d_fullres"
    assert len(list(data.glob("*.pkl"))) == 4 and not list(data.glob("phantomtr_003*"))
    assert not leftovers(pre)


def preprocess_until_signal(pre: Path, number: signal.Signals) -> tuple[int, Path]:
    """Start preprocessing in a process of its own and send a signal when the first case is done."""
    data = pre / FINETUNE / "nnUNetPlans_3d_fullres"
    program = "import sys; from nnunet_pt.cli.preprocess import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["-d", "902", "-c", "3d_fullres", "-np", "1"]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL) as process:
        while len(list(data.glob("*.pkl"))) < 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
    return process.returncode, data


@measured
def test_killed_preprocessing_goes_on_where_it_stopped(run: Run, pre: Path) -> None:
    status, data = preprocess_until_signal(pre, signal.SIGKILL)
    assert status == -signal.SIGKILL

    resumed = run("preprocess -d 902 -c 3d_fullres -np 2")
    assert resumed.status == 0
    assert "0 already there" not in resumed.out
    interrupted = {p.name: p.read_bytes() for p in data.iterdir()}
    assert len(interrupted) == 15
    assert run("preprocess -d 902 -c 3d_fullres -np 2 --clean").status == 0
    assert {p.name: p.read_bytes() for p in data.iterdir()} == interrupted


@measured
def test_terminated_preprocessing_cleans_up(pre: Path) -> None:
    status, _ = preprocess_until_signal(pre, signal.SIGTERM)
    assert status == 143
    assert not leftovers(pre)


@fresh
def test_fingerprint_needs_all_cases(run: Run, raw: Path, pre: Path) -> None:
    truncate(raw / FINETUNE / "imagesTr" / "phantomtr_003_0000.nii.gz")
    ended = run("plan_and_preprocess -d 902 --continue_on_error")
    assert ended.status == 1
    assert "phantomtr_003" in ended.err
    assert not (pre / FINETUNE / "dataset_fingerprint.json").exists()
    assert not (pre / FINETUNE / "nnUNetPlans.json").exists()


@fresh
def test_integrity_report_lists_everything_and_stops_the_command(run: Run, raw: Path, pre: Path) -> None:
    truncate(raw / FINETUNE / "imagesTr" / "phantomtr_003_0000.nii.gz")
    (raw / FINETUNE / "labelsTr" / "phantomtr_001.nii.gz").unlink()
    ended = run("plan_and_preprocess -d 902 --verify_dataset_integrity")
    assert ended.status == 1
    assert "phantomtr_003" in ended.err and "phantomtr_001" in ended.err
    report = json.loads((pre / FINETUNE / "integrity_report.json").read_text())
    assert {"phantomtr_001", "phantomtr_003"} <= {f["case"] for f in report["findings"]}
    assert not (pre / FINETUNE / "dataset_fingerprint.json").exists()


@measured
def test_wrong_names_get_suggestions(run: Run, pre: Path) -> None:
    for line, status, expected in (
        ("extract_fingerprint -d 77", 1, "no dataset with the number 77"),
        ("plan_experiment -d 902 -pl ExperimentPlaner", 1, "did you mean ExperimentPlanner"),
        ("plan_experiment -d 902 -pl nnUNetPlannerResEnc", 1, "nnUNetPlannerResEncM"),
        ("plan_experiment -d 902 -preprocessor_name Default", 1, "DefaultPreprocessor"),
        ("plan_experiment -d 902 -overwrite_target_spacing 1 1", 2, "three spacings"),
        ("preprocess -d 902 -plans_name nnUNetPlan", 1, "nnUNetPlan.json"),
        ("preprocess -d 902 -c 3d_fulres", 1, "did you mean 3d_fullres"),
        ("preprocess -d 902 -c 2d 3d_fullres -np 1 2 3", 2, "one number, or"),
        ("move_plans_between_datasets -s 902 -t 77 -sp nnUNetPlans", 1, "77"),
    ):
        ended = run(line)
        assert ended.status == status, line
        assert expected in ended.err, f"{line}: {ended.err}"
    assert not leftovers(pre)


@measured
def test_skipped_configuration_with_a_typing_error_is_pointed_out(run: Run) -> None:
    ended = run("preprocess -d 902 -c 3d_fullres 3d_lowre")
    assert ended.status == 0
    assert "did you mean 3d_lowres?" in ended.out


@measured
def test_configurations_that_a_dataset_does_not_have_are_no_typing_errors(run: Run) -> None:
    ended = run("preprocess -d 902 -c 3d_fullres 3d_lowres")
    assert ended.status == 0
    assert "3d_lowres" in ended.out and "did you mean" not in ended.out


@fresh
@pytest.mark.parametrize("arguments", ["-d 902 77", "-d 902 -pl ExperimentPlaner", "-d 902 -c 2d -np 1 2"])
def test_typing_errors_are_found_before_any_work_is_done(run: Run, pre: Path, arguments: str) -> None:
    assert run(f"plan_and_preprocess {arguments}").status in (1, 2)
    assert list(pre.iterdir()) == []


@measured
def test_plans_that_name_an_unknown_class_are_refused(run: Run, pre: Path) -> None:
    path = pre / FINETUNE / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["os.system"]
    path.write_text(json.dumps(plans))
    ended = run("preprocess -d 902 -c 3d_fullres")
    assert ended.status == 1
    assert "os.system" in ended.err and "ZScoreNormalization" in ended.err


@fresh
def test_missing_variable_says_how_to_set_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    ended = run("extract_fingerprint -d 902")
    assert ended.status == 1
    assert "export nnUNet_preprocessed=" in ended.err


@measured
def test_verbose_adds_the_traceback(run: Run) -> None:
    ended = run("extract_fingerprint -d 77 --verbose")
    assert ended.status == 1
    assert "Traceback" in ended.err and "no dataset with the number 77" in ended.err


@measured
def test_full_disk_leaves_the_old_plans(run: Run, pre: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in (pre / FINETUNE).iterdir() if p.is_file()}

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    ended = run("plan_experiment -d 902 -gpu_memory_target 4")
    assert ended.status == 1
    assert "no space left on the device" in ended.err and str(pre / FINETUNE) in ended.err
    assert {p.name: p.read_bytes() for p in (pre / FINETUNE).iterdir() if p.is_file()} == before


@fresh
def test_folder_that_cannot_be_made_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("nnUNet_preprocessed", str(folder))
        ended = run("extract_fingerprint -d 902 --no_pbar")
        assert ended.status == 1
        assert str(tmp_path / "file") in ended.err


@measured
def test_verbose_planning_prints_the_whole_file(run: Run) -> None:
    assert '"patch_size"' not in run("plan_experiment -d 902").out
    assert '"patch_size"' in run("plan_experiment -d 902 --verbose").out
