"""A workspace with two datasets, and stand-ins for the commands of SLURM."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_pt.cluster.jobs import workflow_of
from nnunet_pt.cluster.scripts import WrittenScripts, write_scripts
from nnunet_pt.cluster.settings import ClusterSettings, load_cluster_settings
from nnunet_pt.cluster.workflow import Workflow, WorkflowRequest
from nnunet_pt.core.settings import Settings, Workspace

DATASETS = ("Dataset015_Brain", "Dataset016_Spine")


def make_workspace(root: Path) -> Workspace:
    """Two datasets of which only dataset.json is there."""
    for name in DATASETS:
        (root / "raw" / name).mkdir(parents=True)
        (root / "raw" / name / "dataset.json").write_text(json.dumps({"name": name}), encoding="utf-8")
    return Workspace(Settings(raw=root / "raw", preprocessed=root / "pre", results=root / "res"))


def cluster(**flags: Any) -> ClusterSettings:
    """Settings from values that jobs or trainings ask for."""
    training = {name: flags.pop(name) for name in ("gpus", "nodes") if name in flags}
    return load_cluster_settings(None, flags=flags, training_flags=training)


def workflow(workspace: Workspace, settings: ClusterSettings | None = None, **request: Any) -> Workflow:
    """A workflow for dataset 16."""
    wanted = {"dataset": 16, "configurations": ("3d_fullres",), "folds": (0, 1), **request}
    return workflow_of(WorkflowRequest(**wanted), settings or cluster(), workspace)


def written(root: Path, settings: ClusterSettings | None = None, **request: Any) -> WrittenScripts:
    """The scripts of a workflow for dataset 16, in ``root/jobs``."""
    workspace = make_workspace(root) if not (root / "raw").exists() else None
    workspace = workspace or Workspace(Settings(raw=root / "raw", preprocessed=root / "pre", results=root / "res"))
    settings = settings or cluster()
    return write_scripts(workflow(workspace, settings, **request), settings, workspace, root / "jobs")


def commands(folder: Path, scripts: Mapping[str, str]) -> str:
    """A PATH on which stand-ins for some commands come first."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        file = folder / name
        file.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        file.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
