"""What the documentation shows is what happens.

The ``bash`` blocks of a page are run from the first to the last, as one script, and its ``python`` blocks as one
program, on datasets of a few voxels and with trainings of a few steps. Pages that begin at the beginning start in an
empty folder; the others take for granted that somebody has worked there before. A block that cannot be run everywhere
says why (``bash not-run: two GPUs``); its commands are parsed like all others, see ``test_pages_written.py``.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import make_phantom
import pytest
from shown import PAGES, PROJECT, SHELL, blocks, name_of

pytestmark = pytest.mark.xdist_group("documentation")  # all in one process, for which the datasets are made once
Run = Callable[[str, Path], subprocess.CompletedProcess[str]]
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
FROM_THE_BEGINNING = {"README.md", *(name_of(p) for p in PAGES if p.parent.name == "tutorials")}
# Many trainings in a row, each of them like one on another page
LONG = {
    "documentation/how-to/change-a-training.md",
    "documentation/how-to/coming-from-deepmedic.md",
    "documentation/how-to/evaluate-and-select.md",
    "documentation/how-to/other-channels-or-labels.md",
    "documentation/how-to/pretraining-plans.md",
}


def script_of(page: Path, *languages: str) -> str:
    """All blocks of some languages; one that begins with ``#!`` is a file, which the text before it names."""
    texts = []
    for block in blocks(page, *languages):
        if block.not_run is None:
            job = f"cat > {block.file} <<'END_OF_FILE'\n{block.text}END_OF_FILE\nbash {block.file}"
            texts.append(job if block.text.startswith("#!") else block.text)
    return "\n".join(texts)


# Examples of the parsers, and measurements beside other programs, are no story to follow; they are parsed
NO_STORY = {"documentation/reference/commands.md", "documentation/reference/benchmarks.md"}
WITH_COMMANDS = [page for page in PAGES if script_of(page, *SHELL) and name_of(page) not in NO_STORY]
WITH_PYTHON = [page for page in PAGES if script_of(page, "python")]


@pytest.fixture
def beginning(tmp_path: Path, raw_data: Path) -> Path:
    """A clone of this project, and small images where the pages make artificial ones: finished work is kept."""
    folder = tmp_path / "beginning"
    folder.mkdir()
    (folder / "scripts").symlink_to(PROJECT / "scripts")
    for phantom in make_phantom.PHANTOMS:
        shutil.copytree(raw_data / phantom.name, folder / "demo" / "nnUNet_raw" / phantom.name)
        assert not make_phantom.make_dataset(phantom, folder / "demo" / "nnUNet_raw", seed=0), "larger images were made"
    return folder


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow if name_of(p) in LONG else (), id=name_of(p)) for p in WITH_COMMANDS],
)
def test_commands_of_the_page_work_one_after_the_other(
    page: Path, run_script: Run, request: pytest.FixtureRequest
) -> None:
    script = script_of(page, *SHELL)
    if name_of(page) in FROM_THE_BEGINNING:
        folder = request.getfixturevalue("beginning")
    else:
        folder = request.getfixturevalue("world")
        script = "\n".join([*(f"export {name}=$PWD/{name}" for name in FOLDERS), script])
    done = run_script(script, folder)
    said = done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == 0 and "Traceback" not in said, said


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_of_the_page_runs(page: Path, world: Path, run_script: Run) -> None:
    (world / "program.py").write_text(script_of(page, "python"), encoding="utf-8")
    exports = "\n".join(f"export {name}=$PWD/{name}" for name in FOLDERS)
    done = run_script(f"{exports}\npython program.py", world)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
