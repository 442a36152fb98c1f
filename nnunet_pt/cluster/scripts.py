"""The scripts of a workflow: a person could have written them, and can change them."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_pt.cluster.scripts_text import (
    CHECK,
    CHECK_TEXT,
    COMMON,
    COMMON_TEXT,
    LOGS,
    MARKER,
    STATES,
    STEP_SCRIPTS,
    SUBMIT,
    SUBMIT_TEXT,
    filled,
)
from nnunet_pt.cluster.settings import ClusterSettings, Resources
from nnunet_pt.cluster.workflow import Step, Workflow
from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.files import make_folder, storage_errors, write_text
from nnunet_pt.core.settings import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenScripts:
    """What was written.

    Attributes:
        folder: Where.
        scripts: The scripts of the steps, in their order.
    """

    folder: Path
    scripts: tuple[Path, ...]

    def summary(self) -> str:
        """What was written and where."""
        return f"{len(self.scripts)} job scripts and {SUBMIT} in {self.folder}"


def write_scripts(
    workflow: Workflow, cluster: ClusterSettings, workspace: Workspace, out: Path, *, overwrite: bool = False
) -> WrittenScripts:
    """Write the scripts of a workflow to a folder of its own.

    Args:
        workflow: The steps.
        cluster: What they ask for.
        workspace: Where the three folders are; they are written into the scripts.
        out: The folder that gets a folder for this workflow.
        overwrite: Replace scripts that differ, and remove those of steps that there are no more.

    Raises:
        UsageError: If there are other scripts, which somebody may have changed, or SLURM would take a part of the
            folder's name for the number of a job.
        StorageError: If a file cannot be written.
    """
    folder = out.expanduser().absolute() / workflow.name
    if set("%\\") & set(str(folder)):
        raise UsageError(
            "SLURM cannot write logs to a folder with % or \\ in its name, which it replaces by other things.",
            found=str(folder),
            remedy="choose another folder for --out",
        )
    texts = {
        COMMON: common_text(cluster, workspace, workflow),
        CHECK: check_text(_marks(workspace), workflow),
        SUBMIT: submit_text(workflow),
    }
    steps = {script_name(workflow, step): step_text(workflow, step, cluster) for step in workflow.steps}
    texts |= steps
    known = {path.name for path in folder.glob("*.sh")}
    changed = sorted(name for name in known if name in texts and _read(folder / name) != texts[name])
    foreign = sorted({path.name for path in folder.glob(STEP_SCRIPTS)} - texts.keys())
    if (changed or foreign) and not overwrite:
        raise UsageError(
            f"{folder} holds other scripts than these would be; somebody may have changed them.",
            found=", ".join([*changed, *foreign]),
            remedy=f"bash {shlex.quote(str(folder / SUBMIT))} submits them as they are; --overwrite replaces them",
        )
    make_folder(folder / LOGS)
    make_folder(folder / STATES)
    for name in foreign:
        with storage_errors(folder / name):
            (folder / name).unlink()
    for name, text in texts.items():
        if name not in known or name in changed:
            write_text(folder / name, text)
    return WrittenScripts(folder=folder, scripts=tuple(folder / name for name in steps))


def script_name(workflow: Workflow, step: Step) -> str:
    """Name of a step's script."""
    return f"{workflow.steps.index(step) + 1:02d}_{step.name}.sh"


def step_text(workflow: Workflow, step: Step, cluster: ClusterSettings) -> str:
    """The script of a step."""
    wanted = cluster.resources[step.kind]
    number = workflow.steps.index(step) + 1
    lines = [
        "#!/bin/bash",
        f"# Step {number} of {len(workflow.steps)}: {step.title}.",
        f"# {'After ' + ', '.join(step.after) + '. ' if step.after else ''}Submit it from this folder: sbatch "
        f"{script_name(workflow, step)}; all steps: bash {SUBMIT}",
        *(f"#SBATCH {option}" for option in _options(step, wanted, cluster)),
        "set -e",
        f"source ./{COMMON}",
    ]
    if step.nodes_meet:
        lines += [
            "",
            "# All nodes of this job must see the data",
            f'srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 bash ./{CHECK}',
        ]
    return "\n".join([*lines, "", *step.body, ""])


def _options(step: Step, wanted: Resources, cluster: ClusterSettings) -> list[str]:
    """Options of sbatch, with what is not obvious explained."""
    tasks_per_node = max(1, wanted.num_gpus) if step.nodes_meet else 1
    options = [f"--job-name={step.name}"]
    if step.tasks:
        options += [f"--array={_ranges(step.tasks)}", f"--output={LOGS}/%x_%A_%a.out"]
    else:
        options += [f"--output={LOGS}/%x_%j.out"]
    options += [f"--{name}={value}" for name in ("partition", "account") if (value := getattr(wanted, name))]
    options += [f"--nodes={wanted.nodes}", f"--ntasks-per-node={tasks_per_node}"]
    if wanted.num_gpus:
        options.append(f"--gpus-per-node={wanted.gpus}")
    if wanted.cpus:
        options.append(f"--cpus-per-task={wanted.cpus // tasks_per_node}")
    options += [f"--mem={wanted.mem}"] if wanted.mem else []
    options += [f"--time={wanted.time}"] if wanted.time else []
    options += wanted.options
    told = f"--signal=B:USR1@{cluster.signal_s}"
    return [
        *options,
        f"{told}  # so many seconds before the time limit this script is told,",
        f"{'--requeue':<{len(told)}}  # and queued again; it goes on where it stopped",
        f"{'--open-mode=append':<{len(told)}}  # in the same log",
    ]


def _ranges(numbers: tuple[int, ...]) -> str:
    """Numbers as SLURM writes them: ``0-3`` or ``0,2,4``."""
    whole = range(numbers[0], numbers[0] + len(numbers))
    return f"{whole[0]}-{whole[-1]}" if len(numbers) > 1 and numbers == tuple(whole) else ",".join(map(str, numbers))


def common_text(cluster: ClusterSettings, workspace: Workspace, workflow: Workflow) -> str:
    """What every script reads first."""
    software = [f"module load {' '.join(map(shlex.quote, cluster.modules))}"] if cluster.modules else []
    if cluster.venv is not None:
        software.append(f"source {shlex.quote(str(cluster.venv / 'bin' / 'activate'))}")
    folders = {
        "nnUNet_raw": workspace.raw,
        "nnUNet_preprocessed": workspace.preprocessed,
        "nnUNet_results": workspace.results,
    }
    exports = [f"export {name}={shlex.quote(str(path.absolute()))}" for name, path in folders.items()]
    own = workspace.settings.trainer_folders
    if own:
        exports.append(f"export nnUNet_extTrainer={shlex.quote(':'.join(str(p.absolute()) for p in own))}")
    return filled(
        COMMON_TEXT,
        title=workflow.title,
        software="\n".join([*software, *cluster.setup]) or "# (nothing to load)",
        folders="\n".join(exports),
    )


def check_text(marks: Sequence[str], workflow: Workflow) -> str:
    """The script that looks whether a node sees the data."""
    data = [f"check_data {shlex.quote(name)}" for name in workflow.datasets]
    return filled(CHECK_TEXT, checks="\n".join([*marks, *data]))


def submit_text(workflow: Workflow) -> str:
    """The script that submits the others."""
    waited_for = {name for step in workflow.steps for name in step.after}
    lines = []
    for step in workflow.steps:
        words = ["submit", script_name(workflow, step), *(f'"${variable(name)}"' for name in step.after)]
        lines.append(" ".join(words) + (f"; {variable(step.name)}=$job" if step.name in waited_for else ""))
    return filled(SUBMIT_TEXT, title=workflow.title, steps="\n".join(lines))


def variable(name: str) -> str:
    """A step's name as a variable of bash."""
    return "".join(c if c.isalnum() else "_" for c in name)


def _marks(workspace: Workspace) -> list[str]:
    """Lines that look for the marks in the folders which all nodes must share; marks are made where there is none."""
    lines = []
    for name, root in (("nnUNet_preprocessed", workspace.preprocessed), ("nnUNet_results", workspace.results)):
        file = make_folder(root) / MARKER
        if not file.is_file():
            write_text(file, f"{secrets.token_hex(8)}\n")
        lines.append(f'check_mark "${name}" {shlex.quote(_read(file).strip())}')
    return lines


def _read(path: Path) -> str:
    with storage_errors(path):
        return path.read_text(encoding="utf-8")
