from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # modules that several tests share

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import command_server
import make_nnssl_example
import small_world
from shown import COMMANDS, PROJECT

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
# What a cluster offers, in as many words as the pages use of it: options are dropped, and the job runs at once
ON_A_CLUSTER = {
    "sbatch": """
        while [ $# -gt 0 ]; do case $1 in
            --wrap) exec env SLURM_ARRAY_TASK_ID="${task:-}" bash -c "$2" ;;
            --array=*) task=${1#--array=}; task=${task%%[-,]*}; shift ;;
            --*) shift ;;
            *) exec bash "$@" ;;
        esac; done""",
    "scancel": ":",
    "scontrol": ":",
    "srun": 'while case $1 in --*) true ;; *) false ;; esac; do shift; done; exec "$@"',
}
WORLD = """
nnUNetv2_plan_and_preprocess -d 4 16 902
nnUNetv2_plan_and_preprocess -d 6 15 901 --no_pp
nnUNetv2_plan_experiment -d 4 -pl nnUNetPlannerResEncL
python scripts/make_small_configuration.py nnUNet_preprocessed/Dataset902_PhantomFinetune/nnUNetPlans.json 2d
for fold in 0 1; do nnUNetv2_train 902 2d_small $fold --npz; done
nnUNetv2_train 4 3d_fullres 0
nnUNetv2_train 16 3d_fullres 0
nnUNetv2_plan_experiment -d 6 -gpu_memory_target 0.003
nnUNetv2_preprocess -d 6 -c 3d_lowres 3d_fullres
nnUNetv2_train 6 3d_lowres all
nnUNetv2_train 6 3d_cascade_fullres all
"""
# What pages call by such a name is somebody's file or folder
MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
PLACEHOLDERS = {
    "PATH/checkpoint_final.pth": f"nnUNet_results/Dataset016_Spine/{MODEL}/fold_0/checkpoint_final.pth",
    "FILE.pth": f"nnUNet_results/Dataset016_Spine/{MODEL}/fold_0/checkpoint_final.pth",
    "MODEL_FOLDER": f"nnUNet_results/Dataset004_Hippocampus/{MODEL}",
    "IMAGES": "nnUNet_raw/Dataset004_Hippocampus/imagesTs",
    "imagesTs": "nnUNet_raw/Dataset004_Hippocampus/imagesTs",
    "labelsTs": "nnUNet_raw/Dataset004_Hippocampus/labelsTs",
    "nnUNetPlans_3d_fullres": "nnUNet_preprocessed/Dataset902_PhantomFinetune/nnUNetPlans_3d_fullres",
    "fold_0": "nnUNet_results/Dataset902_PhantomFinetune/nnUNetTrainer__nnUNetPlans__2d_small/fold_0",
}

Run = Callable[[str, Path], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a script of bash in a folder; our commands and ``python`` in it are done by the command server."""
    folder = tmp_path_factory.mktemp("commands")
    for name in (*COMMANDS, "python"):
        (folder / name).write_text(command_server.CLIENT, encoding="utf-8")
    for name, script in ON_A_CLUSTER.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o755)
    path = folder / "socket"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "SLURM_"))}
    environment |= {
        command_server.SOCKET: str(path),
        "PATH": f"{folder}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
        "SLURM_CPUS_PER_TASK": "1",  # other tests use the other CPUs
        "OMP_NUM_THREADS": "1",
        "nnUNet_n_proc_DA": "0",
    }
    server = subprocess.Popen(
        [sys.executable, command_server.__file__, str(path), json.dumps(COMMANDS)],
        env=environment,
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )

    def run(script: str, workspace: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{script}"],
            cwd=workspace,
            env=environment | {"HOME": str(workspace)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    try:
        while not path.exists():
            assert server.poll() is None, "the command server ended"
            time.sleep(0.05)
        yield run
    finally:
        server.communicate()


@pytest.fixture(scope="session")
def raw_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all datasets that the pages mention; not to be changed."""
    folder = tmp_path_factory.mktemp("raw")
    for tiny in small_world.DATASETS:
        small_world.make_dataset(tiny, folder)
    return folder


@pytest.fixture(scope="session")
def _world(tmp_path_factory: pytest.TempPathFactory, raw_data: Path, run_script: Run) -> Path:
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(raw_data, folder / "nnUNet_raw")
    (folder / "scripts").symlink_to(PROJECT / "scripts")
    small_world.make_decathlon_task(folder / "Task09_Spleen", raw_data)
    small_world.make_version_1_task(folder / "nnUNet_raw_data" / "Task027_Old", raw_data)
    exports = "\n".join(f"export {name}=$PWD/{name}" for name in FOLDERS)
    done = run_script(f"{exports}\n{WORLD}", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    plans = json.loads((folder / "nnUNet_preprocessed/Dataset004_Hippocampus/nnUNetResEncUNetLPlans.json").read_text())
    planned = plans["configurations"]["3d_fullres"]
    make_nnssl_example.make_checkpoint(
        folder / "checkpoint_final.pth",
        planned["architecture"]["arch_kwargs"],
        patch_size=planned["patch_size"],
        spacing_mm=(1.0, 1.0, 1.0),
    )
    for name, source in PLACEHOLDERS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (folder / source).is_dir() else shutil.copy
        copy(folder / source, folder / name)
    return folder


@pytest.fixture
def world(_world: Path, tmp_path: Path) -> Path:
    """A folder in which somebody has worked for a while: preprocessed datasets, models, files to start from."""
    shutil.copytree(_world, tmp_path / "world", symlinks=True)
    return tmp_path / "world"
