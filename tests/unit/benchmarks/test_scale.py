"""The benchmark of many cases, with few."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "scale.py"


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    specification = importlib.util.spec_from_file_location("scale", FILE)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "scale", module)
    specification.loader.exec_module(module)
    return module


def only(scale: Any, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    steps = scale.steps

    def some(root: Path, workers: int) -> Iterator[tuple[str, list[str]]]:
        yield from ((name, command) for name, command in steps(root, workers) if name in names)

    monkeypatch.setattr(scale, "steps", some)


def test_steps_are_measured(scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(scale, monkeypatch, "integrity check and fingerprint", "fingerprint again (nothing to do)")
    first, again = scale.measure(tmp_path, 22, workers=1)
    assert (tmp_path / "preprocessed" / scale.DATASET / "dataset_fingerprint.json").is_file()
    assert first.cases == again.cases == 22
    assert 0 < first.cpu_s < first.wall_s * 2 and first.workers_cpu_s > 0 == again.workers_cpu_s
    assert 10 < again.peak_mb < scale.BOOKKEEPING_MB and first.opened > again.opened > 0
    images = sorted((tmp_path / "raw" / scale.DATASET / "imagesTr").iterdir())
    assert len(images) == 22 and images[0].samefile(images[20]) and not images[0].samefile(images[1])
    assert scale.table([first, again]).startswith("| 22 cases | time in s |")
    assert scale.table([first, replace(first, cases=30)]).count(f"{first.opened:,} / {first.opened:,}") == 1


def test_a_step_that_fails_is_named(scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(scale, monkeypatch, "plan")
    with pytest.raises(RuntimeError, match=r"plan: exit status 1\n(.|\n)*nnUNetv2_extract_fingerprint"):
        list(scale.measure(tmp_path, 1, workers=1))


def test_what_misses_the_goals_is_named(scale: Any) -> None:
    figures = {"wall_s": 3.0, "cpu_s": 2.0, "workers_cpu_s": 0.0, "peak_mb": 400.0, "worker_peak_mb": 0.0}
    start = scale.Measured(step="training, to the first batch", cases=100, opened=1, listed=1, stat=1, **figures)
    linear = [start, replace(start, cases=1000, cpu_s=2.9), replace(start, cases=10_000, cpu_s=11.9)]
    assert scale.verdicts(linear) == []
    quadratic = [*linear[:2], replace(start, cases=10_000, cpu_s=92.0)]
    assert "CPU time for a case grows from 0.001 to 0.0091 s" in scale.verdicts(quadratic)[0]
    assert "12.0 s with 10,000 cases" in scale.verdicts([*linear[:2], replace(linear[2], wall_s=12.0)])[0]
    assert "501 MB with 100 cases" in scale.verdicts([replace(start, step="plan", peak_mb=501.0)])[0]
