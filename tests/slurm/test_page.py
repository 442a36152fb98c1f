"""The commands of ``documentation/how-to/slurm.md`` do what the page says, on this cluster and with small images."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_jobs import PROJECT, World, states

from nnunet_pt.cluster.settings import load_cluster_settings
from nnunet_pt.cluster.status import status_of

sys.path.append(str(PROJECT / "tests" / "documentation"))

import small_world

PAGE = PROJECT / "documentation" / "how-to" / "slurm.md"
BLOCK = re.compile(r"^```bash not-run: a SLURM cluster; run by tests/slurm\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLUSTER = """
partition = "main"
mem = "400M"
cpus = 1
venv = ""
[training]
gpus = 0
"""


@pytest.fixture
def reader(world: World) -> Iterator[World]:
    """What a reader of the page has: datasets 4, 15 and 16, and a file about the cluster."""
    for tiny in small_world.DATASETS:
        if tiny.name[7:10] in ("004", "015", "016"):
            small_world.make_dataset(tiny, world.root / "nnUNet_raw")
    (world.root / "cluster.toml").write_text(CLUSTER, encoding="utf-8")
    for script in (world.root / "bin").iterdir():
        text = script.read_text().replace(" -m ", f" {Path(__file__).with_name('shortened.py')} ")
        script.write_text(text, encoding="utf-8")
    yield world


def test_the_commands_of_the_page_run_to_their_end(reader: World) -> None:
    said = []
    for text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        said.append(reader.run("bash", "-c", f"set -euo pipefail\n{text}"))
        for folder in (reader.root / "jobs").iterdir():
            if (folder / "submitted.txt").exists():
                reader.finish(folder)
    assert len(said) == 5
    found = {workflow.folder.name: set(states(workflow)) for workflow in status_of(reader.root / "jobs")}
    assert found == {"crossval_4": {"done"}, "pretrain_15_finetune_16": {"done"}}
    tree = re.sub(r"job \d+(, 8 tasks)?", "job", said[2])
    shown = PAGE.read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    assert re.sub(r"job \d+(, 8 tasks)?", "job", shown) in tree
    assert "pretrain_15_finetune_16" in said[3] and "done" in said[3]
    assert said[4].count("Training done.") == 1


def test_the_file_about_the_cluster_that_the_page_shows_is_usable(tmp_path: Path) -> None:
    text = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "cluster.toml").write_text(text, encoding="utf-8")
    settings = load_cluster_settings(tmp_path / "cluster.toml", flags={}, training_flags={})
    assert settings.partitions() == ("cpu", "gpu")
    assert (settings.parts, settings.resources["training"].gpus) == (8, "1")
