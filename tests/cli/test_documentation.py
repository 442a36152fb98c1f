"""What the documentation shows is what happens.

Blocks marked ``bash`` are run from the first to the last of a page, in a workspace of its own. Blocks marked ``sh``
are for other machines or take longer; the arguments of our commands in them are parsed. Links lead somewhere.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nnunet_pt.core import settings
from nnunet_pt.training.history import LOGGING_KEYS as HISTORY_KEYS
from nnunet_pt.training.history import EpochFigures
from nnunet_pt.training.state import TrainingState

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted([PROJECT / "README.md", *(PROJECT / "documentation").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NNUNET_KEYS = (
    "network_weights",
    "optimizer_state",
    "grad_scaler_state",
    "logging",
    "_best_ema",
    "current_epoch",
    "init_args",
    "trainer_name",
    "inference_allowed_mirroring_axes",
)
COMMANDS = {e.name: e.value for e in entry_points(group="console_scripts") if e.value.startswith("nnunet_pt.")}


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def blocks(page: Path, *kinds: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind in kinds]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=name_of)
def test_commands_of_the_page_work_one_after_the_other(
    page: Path, measured_workspace: Path, measured_phantom: Path, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(measured_phantom, measured_workspace / "demo")  # saves measuring it once more
    (measured_workspace / "scripts").symlink_to(PROJECT / "scripts")
    script = "\n".join(blocks(page, "bash"))
    if "nnUNetv2_train" in script and "preprocess" not in script:
        shutil.copytree(request.getfixturevalue("prepared_phantom"), measured_workspace, dirs_exist_ok=True)
    elif "nnUNetv2_predict" in script:
        shutil.copytree(request.getfixturevalue("trained_phantom"), measured_workspace, dirs_exist_ok=True)
        if program := "".join(blocks(page, "python")):
            (measured_workspace / "program.py").write_text(program, encoding="utf-8")
            script += "\npython program.py"
    decathlon_task(measured_workspace / "Task04_Hippocampus", measured_workspace)
    version_1_task(measured_workspace / "nnUNet_raw_data" / "Task027_Old", measured_workspace)
    done = run_script(script, measured_workspace)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def run_script(script: str, workspace: Path) -> subprocess.CompletedProcess[str]:
    # One thread: other tests use the other CPUs, and threads that wait for each other multiply the time
    environment = dict(os.environ, HOME=str(workspace), SLURM_CPUS_PER_TASK="1", CUDA_VISIBLE_DEVICES="")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = f"set -euo pipefail\n{script}"
    return subprocess.run(
        ["bash", "-c", script], cwd=workspace, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def prepared_phantom(tmp_path_factory: pytest.TempPathFactory, measured_phantom: Path) -> Path:
    """What pages about training take for granted: Dataset902 preprocessed for a small 2d network."""
    folder = tmp_path_factory.mktemp("prepared") / "workspace"
    shutil.copytree(measured_phantom, folder)
    (folder / "scripts").symlink_to(PROJECT / "scripts")
    done = run_script(
        """
        export nnUNet_raw="$PWD/nnUNet_raw" nnUNet_preprocessed="$PWD/nnUNet_preprocessed"
        nnUNetv2_preprocess -d 902 -c 2d
        python scripts/make_small_configuration.py "$nnUNet_preprocessed"/Dataset902_*/nnUNetPlans.json 2d
        """,
        folder,
    )
    assert done.returncode == 0, done.stderr
    (folder / "scripts").unlink()
    return folder


@pytest.fixture(scope="session")
def trained_phantom(tmp_path_factory: pytest.TempPathFactory, prepared_phantom: Path) -> Path:
    """What pages about prediction take for granted: two folds of the small 2d network of Dataset902."""
    folder = tmp_path_factory.mktemp("trained") / "workspace"
    shutil.copytree(prepared_phantom, folder)
    done = run_script(
        """
        export nnUNet_preprocessed="$PWD/nnUNet_preprocessed" nnUNet_results="$PWD/nnUNet_results"
        for fold in 0 1; do nnUNetv2_train 902 2d_small $fold -epochs 1 -iterations 2 --npz --no_pbar; done
        """,
        folder,
    )
    assert done.returncode == 0, done.stderr
    return folder


def decathlon_task(folder: Path, workspace: Path) -> None:
    """Two cases as the Medical Segmentation Decathlon packs them, with its hidden files."""
    source = workspace / "nnUNet_raw" / "Dataset902_PhantomFinetune"
    cases = [f"phantomtr_{i:03d}" for i in range(2)]
    for sub in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / sub).mkdir(parents=True)
    for case in cases:
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", folder / "imagesTr" / f"{case}.nii.gz")
        shutil.copy(source / "labelsTr" / f"{case}.nii.gz", folder / "labelsTr")
        (folder / "imagesTr" / f"._{case}.nii.gz").write_bytes(b"hidden")
    shutil.copy(source / "imagesTs" / "phantomts_000_0000.nii.gz", folder / "imagesTs" / "phantomts_000.nii.gz")
    description = old_description(cases)
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def version_1_task(folder: Path, workspace: Path) -> None:
    """Two cases of a dataset of nnU-Net v1."""
    source = workspace / "nnUNet_raw" / "Dataset902_PhantomFinetune"
    cases = [f"phantomtr_{i:03d}" for i in range(2)]
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for case in cases:
        shutil.copy(source / "imagesTr" / f"{case}_0000.nii.gz", folder / "imagesTr")
        shutil.copy(source / "labelsTr" / f"{case}.nii.gz", folder / "labelsTr")
    (folder / "dataset.json").write_text(json.dumps(old_description(cases)), encoding="utf-8")


def old_description(cases: list[str]) -> dict[str, object]:
    return {
        "name": "Old",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "liver", "2": "spleen", "3": "lesion"},
        "numTraining": len(cases),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases],
        "test": [],
    }


def shown_commands() -> list[tuple[str, list[str]]]:
    """Every use of one of our commands in a block, with the page it is on."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash", "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for word in [words, *(shlex.split(w) for w in words if w.startswith("nnUNetv2_") and " " in w)]:
                    if word and word[0].startswith("nnUNetv2_"):
                        end = next((i for i, w in enumerate(word) if w in ("||", "&&", ";", "|", ">")), len(word))
                        found.append((name_of(page), word[:end]))
    return found


def test_arguments_of_all_commands_shown_are_understood() -> None:
    shown = shown_commands()
    assert {words[0] for _, words in shown} >= set(COMMANDS)
    for page, (program, *arguments) in shown:
        assert program in COMMANDS, f"{page} mentions {program}"
        module = importlib.import_module(COMMANDS[program].partition(":")[0])
        arguments = ["0" if a in ("$SLURM_ARRAY_TASK_ID", "$fold") else a for a in arguments]
        try:
            module.build_parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{page}: {program} does not understand {' '.join(arguments)}")


@pytest.mark.parametrize(
    ("page", "script"), [("commands.md", "make_command_reference"), ("trainers.md", "make_trainer_reference")]
)
def test_written_reference_is_up_to_date(
    page: str, script: str, load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    expected = load_script(script).reference()
    assert reference_page(page) == expected, f"run python scripts/{script}.py"


def reference_page(name: str) -> str:
    return (PROJECT / "documentation" / "reference" / name).read_text(encoding="utf-8")


def test_every_value_of_a_checkpoint_is_explained() -> None:
    text = reference_page("checkpoints.md")
    network, optimizer = torch.nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    checkpoint = TrainingState().capture(network, optimizer, init_args={}, trainer_name="x", mirroring_axes=None)
    names = {*HISTORY_KEYS, *checkpoint.extra, *checkpoint.extra["nnunet_pt"], *NNUNET_KEYS}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []


def test_every_value_of_the_progress_file_is_explained() -> None:
    section = re.split(r"^#+ ", reference_page("files.md").partition("### progress.jsonl")[2], flags=re.MULTILINE)[0]
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))))
    assert explained == {field.name for field in fields(EpochFigures)}


def test_every_environment_variable_is_explained() -> None:
    text = reference_page("environment.md")
    variables = set(re.findall(r'(?:env\.get\(|\(env, )"(\w+)"', inspect.getsource(settings)))
    assert {"nnUNet_extTrainer", "SLURM_PROCID", "MASTER_PORT", "LOCAL_RANK"} <= variables
    assert [name for name in sorted(variables) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), f"{name_of(page)} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", t).lower().replace(" ", "-") for t in titles], target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_json_shown_is_json(page: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)
