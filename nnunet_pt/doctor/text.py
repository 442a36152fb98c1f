"""A diagnosis as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from nnunet_pt.core.console import duration, table
from nnunet_pt.core.wording import counted
from nnunet_pt.doctor.diagnosis import Diagnosis
from nnunet_pt.doctor.findings import GROUPS, Finding, Status, gigabytes
from nnunet_pt.doctor.stages import DatasetPrediction, Stage

MARKS: dict[Status, str] = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
DAY_S = 86400.0
Style = Status | Literal["heading"]
Paint = Callable[[str, Style], str]


def plain(text: str, style: Style) -> str:  # noqa: ARG001
    """Text without colours."""
    return text


def diagnosis_text(diagnosis: Diagnosis, *, width: int = 110, paint: Paint = plain) -> str:
    """The findings by group, then the prediction, then the verdict.

    Args:
        diagnosis: What was found.
        width: Columns of the terminal.
        paint: Colours marks by their status, and headings.
    """
    findings = diagnosis.findings
    column = max((len(f.title) for f in findings), default=0)
    blocks = []
    for group, title in GROUPS.items():
        own = [f for f in findings if f.group == group]
        if group == "dataset" and diagnosis.prediction is not None:
            blocks.append("\n".join(_prediction(diagnosis.prediction, own, column, width, paint)))
        elif own:
            blocks.append(
                "\n".join([paint(title, "heading"), *(line for f in own for line in _lines(f, column, width, paint))])
            )
    return "\n\n".join([*blocks, verdict(diagnosis, paint)])


def verdict(diagnosis: Diagnosis, paint: Paint = plain) -> str:
    """One line: how many problems and notes there are."""
    problems, notes = len(diagnosis.problems), len(diagnosis.notes)
    noted = counted(notes, "note") if notes else ""
    if problems:
        text = counted(problems, "problem")
        return paint(text, "problem") + (f", {noted}" if noted else "")
    return paint("No problems", "ok") + (f", {noted}" if noted else "")


def _lines(finding: Finding, column: int, width: int, paint: Paint) -> Iterator[str]:
    mark = MARKS[finding.status]
    lead = f"  {paint(mark, finding.status)}{' ' * (len('PROBLEM') - len(mark))}  {finding.title.ljust(column)}  "
    indent = " " * (2 + len("PROBLEM") + 2 + column + 2)
    yield lead + _wrapped(finding.found, indent, width)
    for label, text in (("why  ", finding.why), ("to do", finding.remedy)):
        if text:
            yield f"{indent}{label}  " + _wrapped(text, indent + " " * 7, width)


def _wrapped(text: str, indent: str, width: int) -> str:
    """Text over several lines, all but the first indented; commands keep their spaces."""
    room = max(30, width - len(indent))
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return f"\n{indent}".join(lines or [""])


def _prediction(
    prediction: DatasetPrediction, findings: Sequence[Finding], column: int, width: int, paint: Paint
) -> Iterator[str]:
    plans = f", {prediction.plans_name}" if prediction.plans_name else ""
    how = f"networks on {prediction.device}, measured in {prediction.measured_s:.0f} s"
    yield paint(f"{prediction.dataset}{plans}", "heading") + f": {counted(prediction.cases, 'case')}, {how}"
    with_gpu = any(s.gpu_memory_bytes is not None for s in prediction.stages)
    header = ["stage", "configuration", "memory", *(["GPU memory"] if with_gpu else []), "disk", "time"]
    rows = [_row(stage, with_gpu) for stage in prediction.stages]
    yield textwrap.indent(table(rows, header), "  ")
    comments: dict[str, list[str]] = {}
    for stage in prediction.stages:
        comments.setdefault(stage.comment, []).append(f"{stage.name} {stage.configuration or ''}".strip())
    for comment, stages in comments.items():
        if comment:
            yield "  " + _wrapped(f"{', '.join(stages)}: {comment}", "  ", width)
    for finding in findings:
        yield from _lines(finding, column, width, paint)


def _row(stage: Stage, with_gpu: bool) -> list[str]:
    gpu = [_size(stage.gpu_memory_bytes)] if with_gpu else []
    size = [_size(stage.memory_bytes), *gpu, _size(stage.disk_bytes)]
    return [stage.name, stage.configuration or "", *size, _time(stage)]


def _size(size: int | None) -> str:
    return "" if size is None else gigabytes(size)


def _time(stage: Stage) -> str:
    if stage.seconds is None or stage.unit_seconds is None:
        return "not measured"
    least = "more than " if stage.at_least else ""
    each = f"{span(stage.unit_seconds)} for {'an epoch' if stage.unit == 'epoch' else 'a case'}"
    done = "  (is there already)" if stage.done else ""
    return f"{least}{each}, {span(stage.seconds)} for {counted(stage.units, stage.unit)}{done}"


def span(seconds: float) -> str:
    """A time span with the digits it deserves: ``30 ms``, ``0.4 s``, ``35 s``, ``5:50 min``, ``3:20 h``, ``4 days``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if seconds < 3599.5:
        return f"{duration(seconds)} min"
    if seconds < 2 * DAY_S:
        return f"{duration(round(seconds / 60) * 60)[:-3]} h"
    return f"{seconds / DAY_S:.1f} days"
