"""Settings and Workspace: what is read from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_pt.core.errors import SettingsError
from nnunet_pt.core.settings import Settings, Workspace


def test_nothing_set_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()


def test_everything_set() -> None:
    settings = Settings.from_environment(
        {
            "nnUNet_raw": " '/data/raw files' ",
            "nnUNet_preprocessed": '"~/pre"',
            "nnUNet_results": "/res",
            "nnUNet_extTrainer": '/a:"/b c":',
            "nnUNet_def_n_proc": "'6'",
            "nnUNet_n_proc_DA": "0",
            "nnUNet_compile": "T",
            "nnUNet_npp": "5",
            "nnUNet_nps": "x",
            "nnUNet_wandb_enabled": "True",
            "nnUNet_wandb_project": "p",
            "nnUNet_wandb_mode": "offline",
            "LSB_JOBID": "77",
            "SLURM_CPUS_PER_TASK": "4",
            "nnssl_pretrained_models": "/m",
        }
    )
    assert settings == Settings(
        raw=Path("/data/raw files"),
        preprocessed=Path.home() / "pre",
        results=Path("/res"),
        trainer_folders=(Path("/a"), Path("/b c")),
        num_processes=6,
        num_augmentation_processes=0,
        compile=True,
        num_predict_preprocess=5,
        num_predict_export=3,
        wandb_enabled=True,
        wandb_project="p",
        wandb_mode="offline",
        job_id="77",
        cpus_per_task=4,
        pretrained_models=Path("/m"),
    )


@pytest.mark.parametrize("value", ["", "  ", "''"])
def test_empty_values_count_as_not_set(value: str) -> None:
    names = ["nnUNet_raw", "nnUNet_def_n_proc", "nnUNet_compile", "nnUNet_wandb_enabled", "SLURM_CPUS_PER_TASK"]
    assert Settings.from_environment(dict.fromkeys(names, value)) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nnUNet_def_n_proc", "0"),
        ("nnUNet_def_n_proc", "four"),
        ("nnUNet_n_proc_DA", "-1"),
        ("SLURM_CPUS_PER_TASK", "2.5"),
        ("nnUNet_wandb_enabled", "maybe"),
    ],
)
def test_impossible_values_name_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        Settings.from_environment({name: value})
    assert caught.value.found == repr(value)


def test_slurm_job_comes_before_lsf_job() -> None:
    assert Settings.from_environment({"SLURM_JOB_ID": "1", "LSB_JOBID": "2"}).job_id == "1"


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False), ("no", False)])
def test_compile_is_a_switch(value: str, expected: bool) -> None:
    assert Settings.from_environment({"nnUNet_compile": value}).compile is expected


def test_missing_folder_is_an_error_only_when_it_is_needed(tmp_path: Path) -> None:
    workspace = Workspace(Settings(raw=tmp_path))
    assert workspace.raw == tmp_path
    with pytest.raises(SettingsError, match="export nnUNet_preprocessed="):
        _ = workspace.preprocessed
    with pytest.raises(SettingsError, match="nnUNet_results is not set"):
        _ = workspace.results


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(SettingsError, match="nnUNet_results is not a folder"):
        _ = Workspace(Settings(results=path)).results


def test_folder_that_does_not_exist_yet_is_accepted(tmp_path: Path) -> None:
    workspace = Workspace(Settings(raw=tmp_path, results=tmp_path / "new"))
    assert workspace.results == tmp_path / "new"
    assert workspace.existing_roots() == (tmp_path,)


def test_environment_of_the_process_is_read_late(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("nnUNet_raw", f'"{tmp_path}"')
    assert Workspace.from_environment().raw == tmp_path
