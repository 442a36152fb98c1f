"""What the documentation shows is what happens.

Blocks marked ``bash`` are run from the first to the last of a page, in a workspace of its own. Blocks marked ``sh``
are for other machines or take longer; the arguments of our commands in them are parsed. Links lead somewhere.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted([PROJECT / "README.md", *(PROJECT / "documentation").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = {e.name: e.value for e in entry_points(group="console_scripts") if e.value.startswith("nnunet_pt.")}
LATER = ("nnUNetv2_train",)  # commands of nnU-Net that the documentation mentions


def name_of(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def blocks(page: Path, *kinds: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind in kinds]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=name_of)
def test_commands_of_the_page_work_one_after_the_other(
    page: Path, measured_workspace: Path, measured_phantom: Path
) -> None:
    shutil.copytree(measured_phantom, measured_workspace / "demo")  # saves measuring it once more
    (measured_workspace / "scripts").symlink_to(PROJECT / "scripts")
    decathlon_task(measured_workspace / "Task04_Hippocampus", measured_workspace)
    version_1_task(measured_workspace / "nnUNet_raw_data" / "Task027_Old", measured_workspace)
    environment = dict(os.environ, HOME=str(measured_workspace), SLURM_CPUS_PER_TASK="2")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = "set -euo pipefail\n" + "\n".join(blocks(page, "bash"))
    done = subprocess.run(
        ["bash", "-c", script], cwd=measured_workspace, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


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
        if program in LATER:
            continue
        assert program in COMMANDS, f"{page} mentions {program}"
        module = importlib.import_module(COMMANDS[program].partition(":")[0])
        arguments = ["4" if a == "$SLURM_ARRAY_TASK_ID" else a for a in arguments]
        try:
            module.build_parser().parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{page}: {program} does not understand {' '.join(arguments)}")


def test_command_reference_is_up_to_date(load_script: Callable[[str], ModuleType]) -> None:
    page = PROJECT / "documentation" / "reference" / "commands.md"
    expected = load_script("make_command_reference").reference()
    assert page.read_text(encoding="utf-8") == expected, "run python scripts/make_command_reference.py"


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
