"""How far the jobs of a folder are: from what SLURM has in its queue, and from what the jobs have noted.

A job writes one small file into ``states``: running, done, failed or requeued. The queue counts more, as far as it
knows the job. What is neither in the queue nor noted as ended was ended from outside.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from nnunet_pt.cluster import slurm
from nnunet_pt.cluster.scripts_text import LOGS, STATES, STEP_SCRIPTS, SUBMIT, SUBMITTED
from nnunet_pt.cluster.slurm import QueuedTask
from nnunet_pt.core.console import table
from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.files import storage_errors

State = Literal["done", "running", "requeued", "waiting", "failed", "cancelled", "not submitted"]
STATES_OF_TASKS: tuple[State, ...] = get_args(State)
_LINES = 6
_ERROR = re.compile(r"(\w+\.)*\w*(Error|Exception|error)\b.*:|slurmstepd: error")
_OPTION = re.compile(r"""(?:^|\s)(?:--(job-name|array)(?:=|\s+)|-([Ja])\s*)("[^"]*"|'[^']*'|\S+)""")
_ENDED: dict[str, tuple[State, str]] = {
    "CANCELLED": ("cancelled", ""),
    "TIMEOUT": ("failed", "it ran into its time limit before it could save; signal_s may be too short"),
    "NODE_FAIL": ("failed", "its node failed"),
    "OUT_OF_MEMORY": ("failed", "it used more memory than it had asked for; ask for more --mem"),
    "PREEMPTED": ("cancelled", "another job took its place"),
    "DEADLINE": ("cancelled", "it could not end before its deadline"),
    "BOOT_FAIL": ("failed", "its node did not start"),
    "FAILED": ("failed", "SLURM calls it failed"),
    "COMPLETED": ("done", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """How far a task is.

    Attributes:
        task: Its number; None for a single job.
        state: How far.
        job: Number of its job; None if it never had one.
        host: Where it runs or ran last.
        why: Why it waits, or what ended it.
        lines: The last lines of its log about an error.
    """

    task: int | None
    state: State
    job: str | None = None
    host: str | None = None
    why: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatus:
    """How far a step is.

    Attributes:
        name: Name of its job.
        script: Its script.
        tasks: Its tasks; one without a number for a single job.
    """

    name: str
    script: Path
    tasks: tuple[TaskStatus, ...]

    def again(self) -> str | None:
        """The command that runs what has failed or was cancelled once more; None if there is nothing."""
        ended = [t.task for t in self.tasks if t.state in ("failed", "cancelled")]
        numbers = ",".join(str(task) for task in ended if task is not None)
        if not ended:
            return None
        return f"sbatch {f'--array={numbers} ' if numbers else ''}{self.script.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStatus:
    """How far a workflow is.

    Attributes:
        folder: The folder with its scripts.
        steps: Its steps in their order.
        asked_slurm: Whether SLURM could be asked; if not, what waits is not known.
    """

    folder: Path
    steps: tuple[StepStatus, ...]
    asked_slurm: bool

    def text(self) -> str:
        """A table, then what has gone wrong."""
        used = [s for s in STATES_OF_TASKS if any(t.state == s for step in self.steps for t in step.tasks)]
        rows = []
        for step in self.steps:
            numbers = [_tasks_text([t for t in step.tasks if t.state == state], step) for state in used]
            rows.append([step.name, *numbers, _note(step)])
        if not any(row[-1] for row in rows):
            rows = [row[:-1] for row in rows]
        parts = [f"{self.folder}", table(rows, ["step", *used, *["where, why"][: len(rows[0]) - 1 - len(used)]])]
        if not self.asked_slurm:
            parts.append(
                "SLURM cannot be asked on this machine (no squeue), so this is what the jobs themselves noted."
            )
        parts += [text for step in self.steps if (text := _trouble(step))]
        again = [step.again() for step in self.steps if step.again()]
        if again:
            parts.append(
                f"When the cause is gone, all that is missing:  bash {shlex.quote(str(self.folder / SUBMIT))}\n"
                f"or in that folder, step by step:  {'; '.join(a for a in again if a)}"
            )
        return "\n\n".join(parts)


def status_of(folder: Path) -> tuple[WorkflowStatus, ...]:
    """How far the workflows are whose scripts are in a folder, or in folders within it.

    Raises:
        UsageError: If there are none.
    """
    root = folder.expanduser().absolute()
    folders = [f for f in (root, *sorted(root.glob("*/"))) if (f / SUBMIT).is_file() and any(f.glob(STEP_SCRIPTS))]
    if not folders:
        raise UsageError(
            f"There are no job scripts in {root}.",
            expected=f"a folder that nnUNetv2_slurm --out has written to, or one with {SUBMIT}",
        )
    queue = slurm.queued_tasks()
    return tuple(_workflow(f, queue) for f in folders)


def _workflow(folder: Path, queue: Sequence[QueuedTask] | None) -> WorkflowStatus:
    own = [task for task in queue or () if task.folder.resolve() == folder.resolve()]
    submitted = submitted_jobs(folder)
    steps = []
    for script in sorted(folder.glob(STEP_SCRIPTS)):
        name, numbers = _name_and_tasks(script)
        queued = [task for task in own if task.name == name]
        job = submitted.get(script.name)
        tasks = tuple(_task(folder, name, number, queued, job, queue is not None) for number in numbers)
        steps.append(StepStatus(name=name, script=script, tasks=tasks))
    return WorkflowStatus(folder=folder, steps=tuple(steps), asked_slurm=queue is not None)


def submitted_jobs(folder: Path) -> dict[str, str]:
    """Script -> number of its job, of the last submission."""
    file = folder / SUBMITTED
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return {words[0]: words[1] for line in lines if len(words := line.split()) >= 2}


def _name_and_tasks(script: Path) -> tuple[str, list[int | None]]:
    """Name and tasks as the script says now, whoever wrote it."""
    with storage_errors(script):
        text = script.read_text(encoding="utf-8", errors="replace")
    options = {}
    for line in re.findall(r"^#SBATCH\s+(.+)", text, re.MULTILINE):
        for name, letter, value in _OPTION.findall(line.partition(" #")[0]):
            options[name or {"J": "job-name", "a": "array"}[letter]] = value.strip("\"'")
    array = options.get("array", "").partition("%")[0]
    numbers: list[int | None] = []
    for part in filter(None, array.split(",")):
        if match := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            first, last, step = (int(g) if g else None for g in match.groups())
            assert first is not None
            numbers += range(first, (first if last is None else last) + 1, step or 1)
    return options.get("job-name", script.stem), numbers or [None]


def _task(
    folder: Path, name: str, number: int | None, queued: Sequence[QueuedTask], submitted: str | None, asked: bool
) -> TaskStatus:
    noted = _noted(folder, name, number)
    if noted is not None and noted[0] != "done" and _is_older(noted[2], submitted):
        noted = None
    word, job, log, host, why = noted or ("", submitted, submitted, None, "")
    entry = next((task for task in queued if task.task == number), None)
    if entry is not None:
        if entry.state != "PENDING":
            return TaskStatus(task=number, state="running", job=entry.job, host=host)
        again = noted is not None and log == entry.job
        return TaskStatus(task=number, state="requeued" if again else "waiting", job=entry.job, why=entry.reason)
    if word == "done":
        return TaskStatus(task=number, state="done", job=job, host=host)
    if word == "failed":
        stopped = why.endswith((" 143", " 130"))
        why = f"it was stopped from outside ({why})" if stopped else why
        state: State = "cancelled" if stopped else "failed"
        return TaskStatus(
            task=number, state=state, job=job, host=host, why=why, lines=_last_lines(folder, name, log, number)
        )
    if not asked and word in ("running", "requeued"):
        return TaskStatus(task=number, state=word, job=job, host=host)  # type: ignore[arg-type]
    if log is None or not asked:
        return TaskStatus(task=number, state="not submitted" if log is None else "waiting", job=job)
    return _gone(folder, name, number, job=log, host=host, started=noted is not None)


def _gone(folder: Path, name: str, number: int | None, *, job: str, host: str | None, started: bool) -> TaskStatus:
    """A task that was submitted, is not in the queue, and has not noted how it ended."""
    word = slurm.end_of(job, number)
    lines = _last_lines(folder, name, job, number)
    if not started and word == "CANCELLED":
        return TaskStatus(
            task=number, state="cancelled", job=job, why="a step before it has failed, or it was cancelled"
        )
    state, why = _ENDED.get(word or "", ("failed", "it is not in the queue any more and has not said how it ended"))
    if not started and state == "failed" and not lines:
        why += ". It has no log: perhaps its node does not see this folder, which must be shared by all nodes"
    return TaskStatus(task=number, state=state, job=job, host=host, why=why, lines=lines)


def _noted(folder: Path, name: str, number: int | None) -> tuple[str, str, str, str, str] | None:
    """What a task has noted: how far it is, its job, the job in the name of its log, its host, and why."""
    file = folder / STATES / (name if number is None else f"{name}.{number}")
    try:
        words = file.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return None
    if len(words) < 5:
        return None
    return words[0], words[1], words[2], words[3], " ".join(words[5:])


def _is_older(job: str, than: str | None) -> bool:
    """Whether a job was submitted before another one."""
    return than is not None and job.isdigit() and than.isdigit() and int(job) < int(than)


def _last_lines(folder: Path, name: str, job: str | None, number: int | None) -> tuple[str, ...]:
    """The last error in a log with what follows it, or just the last lines."""
    file = folder / LOGS / (f"{name}_{job}.out" if number is None else f"{name}_{job}_{number}.out")
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 20_000))
            text = log.read().decode("utf-8", errors="replace")
    except OSError:
        return ()
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    starts = [
        i
        for i, line in enumerate(lines)
        if re.match(r"(\w+\.)*\w*(Error|Exception|error)\b.*:|slurmstepd: error", line)
    ]
    begin = starts[-1] if starts and len(lines) - starts[-1] <= 2 * _LINES else len(lines) - _LINES
    return tuple(lines[max(0, begin) :][:_LINES])


def _tasks_text(tasks: Sequence[TaskStatus], step: StepStatus) -> str:
    if not tasks:
        return ""
    if tasks[0].task is None:
        return "x"
    return "all" if len(tasks) == len(step.tasks) else ",".join(str(t.task) for t in tasks)


def _note(step: StepStatus) -> str:
    """Where it runs, or why it waits."""
    hosts = dict.fromkeys(t.host for t in step.tasks if t.state == "running" and t.host)
    reasons = dict.fromkeys(t.why for t in step.tasks if t.state in ("waiting", "requeued") and t.why)
    return ", ".join([*(f"on {h}" for h in hosts if h), *(f"({r})" for r in reasons)])


def _trouble(step: StepStatus) -> str:
    alike: dict[TaskStatus, list[int]] = {}
    for task in step.tasks:
        if task.state in ("failed", "cancelled"):
            alike.setdefault(replace(task, task=None), []).extend([] if task.task is None else [task.task])
    texts = []
    for task, numbers in alike.items():
        which = f", task{'s' if len(numbers) > 1 else ''} {','.join(map(str, numbers))}" if numbers else ""
        job = "" if task.job is None else f" (job {task.job}{f' on {task.host}' if task.host else ''})"
        why = f": {task.why}" if task.why else ""
        texts += [f"{step.name}{which}{job}: {task.state}{why}", *(f"    {line}" for line in task.lines)]
    return "\n".join(texts)


def job_tree(folder: Path) -> str:
    """The jobs of the last submission, each below the one submitted last of those that it waits for."""
    file = folder / SUBMITTED
    entries = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    names = {job: script[3:].removesuffix(".sh") for script, job, *_ in entries}
    below: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    order = list(names)
    for _, job, *after in entries:
        last = max(after, key=order.index, default="")
        below.setdefault(last, []).append(job)
        others[job] = [number for number in after if number != last]

    def draw(parent: str, indent: str) -> list[str]:
        lines = []
        for job in below.get(parent, ()):
            last = job == below[parent][-1]
            branch = "" if not parent else "└─ " if last else "├─ "
            also = ", ".join(names[j] for j in others[job])
            script = next(script for script, number, *_ in entries if number == job)
            _, tasks = _name_and_tasks(folder / script)
            kind = "" if tasks == [None] else f", {len(tasks)} tasks"
            lines.append(f"{indent}{branch}{names[job]}  job {job}{kind}{f'  (also after {also})' if also else ''}")
            lines += draw(job, indent + ("" if not parent else "   " if last else "│  "))
        return lines

    return "\n".join(draw("", ""))
