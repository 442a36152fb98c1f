from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from slurm_world import DATASETS, cluster, make_workspace, workflow, written

from nnunet_pt.cluster.scripts import write_scripts
from nnunet_pt.cluster.workflow import HowToTrain, Workflow
from nnunet_pt.core.errors import DatasetError, NnunetError, UnknownNameError, UsageError
from nnunet_pt.core.settings import Settings, Workspace


def after(found: Workflow) -> dict[str, tuple[str, ...]]:
    return {step.name: step.after for step in found.steps}


def options(script: Path) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)", script.read_text(), re.MULTILINE))


def test_steps_of_a_crossvalidation_wait_for_each_other(tmp_path: Path) -> None:
    found = workflow(make_workspace(tmp_path), configurations=("2d", "3d_lowres", "3d_cascade_fullres"))
    assert after(found) == {
        "fingerprint_16": (),
        "plan_16": ("fingerprint_16",),
        "preprocess_16": ("plan_16",),
        "train_16_2d": ("preprocess_16",),
        "train_16_3d_lowres": ("preprocess_16",),
        "train_16_3d_cascade_fullres": ("preprocess_16", "train_16_3d_lowres"),
        "best_16": ("train_16_2d", "train_16_3d_lowres", "train_16_3d_cascade_fullres"),
    }
    assert all("--npz" in "".join(s.body) for s in found.steps if s.kind == "training")
    assert "--npz" not in str(workflow(Workspace(Settings(raw=tmp_path / "raw"))).steps)


def test_steps_of_pretraining_and_finetuning_wait_for_each_other(tmp_path: Path) -> None:
    found = workflow(make_workspace(tmp_path), pretrain=15)
    assert after(found) == {
        "fingerprint_16": (),
        "fingerprint_15": (),
        "plan_16_15": ("fingerprint_16", "fingerprint_15"),
        "preprocess_15": ("plan_16_15",),
        "preprocess_16": ("plan_16_15",),
        "pretrain_15_3d_fullres": ("preprocess_15",),
        "finetune_16_3d_fullres": ("pretrain_15_3d_fullres", "preprocess_16"),
        "best_16": ("finetune_16_3d_fullres",),
    }


def test_the_second_stage_of_a_cascade_waits_for_the_first_whatever_the_order(tmp_path: Path) -> None:
    stages = ("3d_cascade_fullres", "3d_lowres")
    workspace = make_workspace(tmp_path)
    for request in ({}, {"pretrain": 15}):
        found = workflow(workspace, configurations=stages, folds=(0, 1, 2, 3, 4), **request)
        submitted = [step.name for step in found.steps]
        for step in found.steps:
            assert {*step.after} <= {*submitted[: submitted.index(step.name)]}
    steps = after(found)
    assert steps["pretrain_15_3d_cascade_fullres"] == ("preprocess_15", "pretrain_15_3d_lowres")
    pretrained = "pretrain_15_3d_cascade_fullres"
    assert steps["finetune_16_3d_cascade_fullres"] == (pretrained, "preprocess_16", "finetune_16_3d_lowres")


def test_folds_that_will_be_missed_or_overlap_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workspace, stages = make_workspace(tmp_path), ("3d_lowres", "3d_cascade_fullres")
    workflow(workspace, configurations=stages, folds=(0, 1, 2, 3, 4))
    workflow(workspace, configurations=stages, folds=("all",))
    workflow(workspace, configurations=("2d", "3d_cascade_fullres"))
    assert not caplog.records
    workflow(workspace, configurations=stages, folds=(0, 1))
    assert "Without folds 2, 3, 4 its jobs will fail" in caplog.text
    caplog.clear()
    splits = tmp_path / "pre" / "Dataset016_Spine" / "splits_final.json"
    splits.parent.mkdir(parents=True)
    splits.write_text('[{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]', encoding="utf-8")
    workflow(workspace, configurations=stages, folds=(0, 1))
    assert not caplog.records
    workflow(workspace, folds=(0, 1, 2, 3))
    assert "Dataset016_Spine has 2 folds. For others (-f 2 3)" in caplog.text


def test_finetuning_has_plans_of_its_own_and_begins_with_the_weights_or_continues(tmp_path: Path) -> None:
    how = HowToTrain(trainer="nnUNetTrainer_100epochs", arguments=("-lr", "0.001"))
    scripts = written(tmp_path, pretrain=15, training=how).scripts
    text = next(s for s in scripts if "finetune" in s.name).read_text()
    model = "Dataset016_Spine/nnUNetTrainer_100epochs__pretrainPlans_from_15__3d_fullres"
    assert f'folder="$nnUNet_results/{model}/fold_$fold"' in text
    weights = "Dataset015_Brain/nnUNetTrainer__pretrainPlans__3d_fullres/fold_all/checkpoint_final.pth"
    assert f'weights="$nnUNet_results/{weights}"' in text
    runs = re.findall(r"run (.+)", re.sub(r"\\\n +", "", text))
    same = 'nnUNetv2_train 16 3d_fullres "$fold" -p pretrainPlans_from_15 -tr nnUNetTrainer_100epochs -lr 0.001'
    assert runs == [f"{same} --c --no_pbar", f'{same} -pretrained_weights "$weights" --no_pbar']


def test_arrays_are_over_parts_and_folds(tmp_path: Path) -> None:
    scripts = {s.name[3:]: s for s in written(tmp_path, cluster(parts=4), folds=(0, 2, 4)).scripts}
    assert options(scripts["fingerprint_16.sh"])["array"] == options(scripts["preprocess_16.sh"])["array"] == "0-3"
    assert options(scripts["train_16_3d_fullres.sh"])["array"] == "0,2,4"
    assert options(scripts["train_16_3d_fullres.sh"])["output"] == "logs/%x_%A_%a.out"
    assert '-num_parts 4 -part_id "$SLURM_ARRAY_TASK_ID"' in scripts["preprocess_16.sh"].read_text()
    assert "array" not in options(scripts["plan_16.sh"])
    assert options(scripts["plan_16.sh"])["output"] == "logs/%x_%j.out"


@pytest.mark.parametrize("verify", [False, True])
def test_each_part_checks_its_cases_if_asked(tmp_path: Path, verify: bool) -> None:
    scripts = written(tmp_path, cluster(parts=4), pretrain=15, verify_integrity=verify).scripts
    asked = [s.name[3:] for s in scripts if "--verify_dataset_integrity" in s.read_text()]
    assert asked == ["fingerprint_16.sh", "fingerprint_15.sh"] * verify


def test_jobs_ask_for_what_the_settings_say(tmp_path: Path) -> None:
    settings = cluster(partition="gpu", account="me", cpus=8, mem="20G", time="4:00:00", gpus="a100:2", nodes=2)
    scripts = {s.name[3:]: s for s in written(tmp_path, settings).scripts}
    training, cases = options(scripts["train_16_3d_fullres.sh"]), options(scripts["preprocess_16.sh"])
    common = {"partition": "gpu", "account": "me", "mem": "20G", "time": "4:00:00", "signal": "B:USR1@300"}
    assert common.items() <= training.items() and common.items() <= cases.items()
    assert "requeue" in training and training["open-mode"] == "append"
    several = {"nodes": "2", "ntasks-per-node": "2", "gpus-per-node": "a100:2", "cpus-per-task": "4"}
    assert several.items() <= training.items()
    assert {"nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "8"}.items() <= cases.items()
    assert "gpus-per-node" not in cases
    text = scripts["train_16_3d_fullres.sh"].read_text()
    assert 'run srun "--cpus-per-task=$SLURM_CPUS_PER_TASK" nnUNetv2_train 16' in text
    assert "bash ./check_folders.sh" in text


def test_several_gpus_of_one_node_need_no_srun(tmp_path: Path) -> None:
    text = written(tmp_path, cluster(gpus="2")).scripts[3].read_text()
    assert "srun" not in text and "-num_gpus 2" in text


@pytest.mark.parametrize(("folder", "word"), [("/local/$USER", '"/local/$USER"'), ("none", "none"), (None, None)])
def test_trainings_copy_their_cases_to_a_disk_of_the_node(tmp_path: Path, folder: str | None, word: str | None) -> None:
    text = written(tmp_path, cluster(scratch=folder)).scripts[3].read_text()
    assert text.count("-scratch ") == (0 if word is None else 2)
    assert word is None or f"-scratch {word} " in text


def test_a_training_on_all_cases_is_no_array_and_compares_nothing(tmp_path: Path) -> None:
    found = workflow(make_workspace(tmp_path), folds=("all",))
    assert [step.name for step in found.steps][-1] == "train_16_3d_fullres"
    assert found.steps[-1].tasks == () and "fold=all" in found.steps[-1].body


def test_planner_and_plans_reach_all_steps(tmp_path: Path) -> None:
    options = {"planner": "nnUNetPlannerResEncL", "gpu_memory_target": 12.0}
    text = "\n".join(line for step in workflow(make_workspace(tmp_path), **options).steps for line in step.body)
    assert "nnUNetv2_plan_experiment -d 16 -pl nnUNetPlannerResEncL -gpu_memory_target 12" in text
    assert "-plans_name nnUNetResEncUNetLPlans" in text and "-p nnUNetResEncUNetLPlans" in text
    named = workflow(Workspace(Settings(raw=tmp_path / "raw")), plans_name="mine")
    assert "-overwrite_plans_name mine" in str(named.steps)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({"dataset": 99}, DatasetError),
        ({"pretrain": 99}, DatasetError),
        ({"pretrain": 16}, UsageError),
        ({"folds": (0, "all")}, UsageError),
        ({"folds": (0, 0)}, UsageError),
        ({"configurations": ()}, UsageError),
        ({"planner": "Planner"}, UnknownNameError),
        ({"training": HowToTrain(trainer="nnUNetTrainer_")}, UnknownNameError),
    ],
)
def test_what_could_never_run_is_refused_before_it_waits(
    tmp_path: Path, request_: dict[str, object], error: type[NnunetError]
) -> None:
    with pytest.raises(error):
        workflow(make_workspace(tmp_path), **request_)


# ---------------------------------------------------------------- files


def test_all_scripts_are_correct_bash(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with 'quotes'"
    folder.mkdir()
    settings = cluster(parts=2, nodes=2, modules=["cuda/12"], venv="/my venv", account="a")
    script = written(folder, settings, pretrain=15).scripts[0]
    for file in script.parent.glob("*.sh"):
        done = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, f"{file.name}: {done.stderr}"
        assert "@" not in re.sub(r"USR1@\d+|\$@|\[@\]", "", file.read_text()), file.name
    job = (script.parent / "job.sh").read_text()
    assert "module load cuda/12\nsource '/my venv/bin/activate'" in job


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("settings", [cluster(), cluster(parts=3, gpus="2", nodes=2), cluster(gpus="4")])
def test_shellcheck_finds_nothing(tmp_path: Path, settings: object) -> None:
    for request in ({"pretrain": 15}, {"configurations": ("2d", "3d_fullres")}, {"folds": ("all",)}):
        script = written(tmp_path / str(len(str(request))), settings, **request).scripts[0]  # type: ignore[arg-type]
        files = sorted(file.name for file in script.parent.glob("*.sh"))
        done = subprocess.run(
            ["shellcheck", "--external-sources", *files], cwd=script.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_the_same_again_changes_nothing_and_changed_scripts_are_kept(tmp_path: Path) -> None:
    first = written(tmp_path)
    assert written(tmp_path) == first
    first.scripts[0].write_text("changed", encoding="utf-8")
    with pytest.raises(UsageError, match="01_fingerprint_16"):
        written(tmp_path)
    assert first.scripts[0].read_text() == "changed"
    workspace = Workspace(Settings(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res"))
    longer = workflow(workspace, configurations=("2d", "3d_fullres"))
    write_scripts(longer, cluster(), workspace, tmp_path / "jobs", overwrite=True)
    shorter = workflow(workspace)
    again = write_scripts(shorter, cluster(), workspace, tmp_path / "jobs", overwrite=True)
    assert sorted(again.folder.glob("[0-9]*.sh")) == sorted(again.scripts)
    assert "changed" not in first.scripts[0].read_text()


@pytest.mark.parametrize("name", ["50%j", "a\\b"])
def test_a_folder_whose_name_slurm_would_change_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="cannot write logs") as raised:
        written(tmp_path / name)
    assert name in raised.value.text() and not (tmp_path / name / "jobs").exists()


# ---------------------------------------------------------------- folders that are not shared


def check(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    root = folder.parents[1]
    variables = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "pre", "nnUNet_results": "res"}
    env = {name: str(root / sub) for name, sub in variables.items()} | {"PATH": "/usr/bin:/bin"} | environment
    return subprocess.run(
        ["bash", "check_folders.sh"], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_a_node_that_sees_the_folders_is_content(tmp_path: Path) -> None:
    done = check(written(tmp_path).folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_is_not_shared_is_explained(tmp_path: Path) -> None:
    folder = written(tmp_path).folder
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / ".nnunet_slurm").write_text("that of another cluster\n", encoding="utf-8")
    for other in (str(tmp_path / "local"), str(tmp_path / "missing")):
        done = check(folder, nnUNet_results=other, SLURMD_NODENAME="node7")
        assert done.returncode == 1
        assert f"Error: node node7 does not see the folder {other}" in done.stderr
        assert "choose a folder that all nodes share" in done.stderr
        assert "preprocessed" not in done.stderr


def test_a_node_without_the_data_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, pretrain=15).folder
    done = check(folder, nnUNet_raw=str(tmp_path / "empty"), SLURMD_NODENAME="node7")
    assert done.returncode == 1
    assert all(f"node7 does not see the data of {name}" in done.stderr for name in DATASETS)
    assert "--exclude=node7" in done.stderr
