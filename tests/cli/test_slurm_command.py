"""``nnUNetv2_slurm`` on machines with and without SLURM, whose commands are stand-ins here; see also tests/slurm."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from nnunet_pt.cli import slurm

CROSSVAL = ("crossval", "-d", "901", "-c", "3d_fullres", "-f", "0", "1")
# Job numbers count up; what is submitted is remembered
SBATCH = """
if [ -n "${REFUSED:-}" ] && [[ $* == *$REFUSED* ]]; then echo "sbatch: error: Invalid account" >&2; exit 1; fi
echo "$@" >> "$SUBMITTED"
echo "Welcome to the cluster"
echo "$(wc -l < "$SUBMITTED");here"
"""
STAND_INS = {
    "sbatch": SBATCH,
    "squeue": 'for i in $(seq "${TIMES:-1}"); do echo "${QUEUE:-}"; done',
    "sinfo": "printf 'main\\ngpu\\n'",
    "scancel": 'echo "$@" > "$SUBMITTED.cancelled"',
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two datasets of which only dataset.json is there; no SLURM."""
    for name in ("Dataset901_PhantomPretrain", "Dataset902_PhantomFinetune"):
        (tmp_path / "nnUNet_raw" / name).mkdir(parents=True)
        (tmp_path / "nnUNet_raw" / name / "dataset.json").write_text("{}", encoding="utf-8")
    for folder in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(folder, str(tmp_path / folder))
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname", "grep", "cut", "paste", "mkdir", "wc", "pwd", "cat", "xargs", "seq"):
        found = next(p for p in (Path("/bin") / tool, Path("/usr/bin") / tool) if p.exists())
        (tools / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(tools))
    return tmp_path


@pytest.fixture
def with_slurm(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with SLURM."""
    for name, script in STAND_INS.items():
        (workspace / "tools" / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        (workspace / "tools" / name).chmod(0o755)
    monkeypatch.setenv("SUBMITTED", str(workspace / "submitted"))
    return workspace


def test_without_sbatch_the_scripts_are_written_all_the_same(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.main([*CROSSVAL, "--out", str(workspace / "jobs")]) == 0
    folder = workspace / "jobs" / "crossval_901"
    assert sorted(p.name for p in folder.glob("*.sh")) == [
        "01_fingerprint_901.sh",
        "02_plan_901.sh",
        "03_preprocess_901.sh",
        "04_train_901_3d_fullres.sh",
        "05_best_901.sh",
        "check_folders.sh",
        "job.sh",
        "submit.sh",
    ]
    out = capsys.readouterr().out
    assert f"There is no sbatch on this machine. Where there is one: bash {folder / 'submit.sh'}" in out
    assert slurm.main([*CROSSVAL, "--out", str(workspace / "jobs"), "--submit"]) == 1
    assert "it has no sbatch. The scripts are written all the same" in capsys.readouterr().err


def test_submit_shows_which_job_waits_for_which(with_slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain_finetune", "-pretrain", "901", "-finetune", "902", "-c", "3d_fullres", "-parts", "3"]
    assert slurm.main([*words, "--out", str(with_slurm / "jobs"), "--submit"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:8] == [
        "fingerprint_902  job 1, 3 tasks",
        "fingerprint_901  job 2, 3 tasks",
        "└─ plan_902_901  job 3  (also after fingerprint_902)",
        "   ├─ preprocess_901  job 4, 3 tasks",
        "   │  └─ pretrain_901_3d_fullres  job 6",
        "   │     └─ finetune_902_3d_fullres  job 7, 5 tasks  (also after preprocess_902)",
        "   │        └─ best_902  job 8",
        "   └─ preprocess_902  job 5, 3 tasks",
    ]
    submitted = (with_slurm / "submitted").read_text().splitlines()
    assert submitted[0] == "--parsable --kill-on-invalid-dep=yes 01_fingerprint_902.sh"
    assert "--dependency=afterok:6:5 " in submitted[6]


def test_when_slurm_refuses_a_step_none_stays_submitted(
    with_slurm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFUSED", "03_preprocess_901.sh")
    assert slurm.main([*CROSSVAL, "--out", str(with_slurm / "jobs"), "--submit"]) == 1
    assert "SLURM refuses 03_preprocess_901.sh: sbatch: error: Invalid account" in capsys.readouterr().err
    assert (with_slurm / "submitted.cancelled").read_text().split() == ["1", "2"]


def test_jobs_that_are_in_the_queue_are_not_submitted_again(
    with_slurm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUEUE", str(with_slurm / "jobs" / "crossval_901"))
    monkeypatch.setenv("TIMES", "5000")  # more than a pipe holds
    assert slurm.main([*CROSSVAL, "--out", str(with_slurm / "jobs"), "--submit"]) == 1
    assert "jobs of this folder are in the queue already" in capsys.readouterr().err
    assert not (with_slurm / "submitted").exists()


def test_an_unknown_partition_is_named_with_those_there_are(
    with_slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.main([*CROSSVAL, "--out", str(with_slurm / "jobs"), "-partition", "gpus"]) == 1
    err = capsys.readouterr().err
    assert "There is no partition called 'gpus'." in err and "gpu, main" in err and "did you mean gpu?" in err
    assert not (with_slurm / "jobs").exists()


def test_a_cluster_file_and_flags_reach_the_scripts(workspace: Path) -> None:
    file = workspace / "cluster.toml"
    file.write_text('account = "a"\nmodules = ["m"]\n[training]\ngpus = 2\n', encoding="utf-8")
    words = ["--out", str(workspace / "jobs"), "-cluster", str(file), "-account", "b", "-train_args", " -lr 0.1"]
    assert slurm.main([*CROSSVAL, *words]) == 0
    folder = workspace / "jobs" / "crossval_901"
    text = (folder / "04_train_901_3d_fullres.sh").read_text()
    assert "--account=b" in text and "--gpus-per-node=2" in text and "-lr 0.1 -num_gpus 2" in text
    assert "module load m\n" in (folder / "job.sh").read_text()


@pytest.mark.parametrize(
    "arguments", [" --c", " -pretrained_weights x", " -tr nnUNetTrainer_5epochs", " 'open", " -num_gpus 2"]
)
def test_training_arguments_that_the_workflow_decides_are_refused(
    workspace: Path, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.main([*CROSSVAL, "--out", str(workspace / "jobs"), "-train_args", arguments]) == 2
    assert "-train_args" in capsys.readouterr().err


def test_training_arguments_are_checked_by_the_parser_of_the_training(workspace: Path) -> None:
    with pytest.raises(SystemExit):
        slurm.main([*CROSSVAL, "--out", str(workspace / "jobs"), "-train_args", " -epoch_number 5"])


def test_a_trainer_in_a_file_is_found_from_the_folder_of_the_jobs(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "own.py").write_text(
        "from dataclasses import replace\n"
        "from nnunet_pt.training.recipe import DEFAULT\n"
        "Mine = replace(DEFAULT, name='Mine')\n"
    )
    monkeypatch.chdir(workspace)
    assert slurm.main([*CROSSVAL, "--out", "jobs", "-tr", "own.py:Mine"]) == 0
    text = (workspace / "jobs" / "crossval_901" / "04_train_901_3d_fullres.sh").read_text()
    assert f"-tr {workspace / 'own.py'}:Mine" in text and "/Mine__nnUNetPlans__3d_fullres/" in text


def test_status_of_jobs_of_which_none_was_submitted(with_slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slurm.main([*CROSSVAL, "--out", str(with_slurm / "jobs")]) == 0
    capsys.readouterr()
    assert slurm.main(["status", str(with_slurm / "jobs")]) == 0
    assert "not submitted" in capsys.readouterr().out
    assert slurm.main(["status", str(with_slurm / "jobs"), "--json_log"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    steps = next(line for line in lines if line["event"] == "output")["data"]["workflows"][0]["steps"]
    assert [task["state"] for step in steps for task in step["tasks"]] == ["not submitted"] * 6


def test_status_of_a_folder_without_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slurm.main(["status", str(tmp_path)]) == 2
    assert "There are no job scripts" in capsys.readouterr().err


def test_scripts_can_be_submitted_from_anywhere(with_slurm: Path) -> None:
    assert slurm.main([*CROSSVAL, "--out", str(with_slurm / "my jobs")]) == 0
    script = with_slurm / "my jobs" / "crossval_901" / "submit.sh"
    subprocess.run(["bash", str(script)], cwd="/", env=dict(os.environ), check=True, capture_output=True)
    assert len((with_slurm / "submitted").read_text().splitlines()) == 5
