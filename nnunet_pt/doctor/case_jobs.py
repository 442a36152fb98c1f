"""Short measurements of single cases, each run in a worker process of its own so that its peak memory is its own."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nnunet_pt.doctor.costs import CaseCost
from nnunet_pt.planning.fingerprint_extractor import MeasureJob, measure_case
from nnunet_pt.preprocessing.case import CaseJob, preprocess_case
from nnunet_pt.preprocessing.store import case_files


def peak_memory() -> int:
    """Largest memory of this process so far in bytes.

    Not ``ru_maxrss``, which begins with that of the process that started this one.
    """
    peak = _own_status("VmHWM")
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _own_status(name: str) -> int | None:
    """A size in bytes that Linux notes about this process."""
    with contextlib.suppress(OSError):
        text = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        match = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
        return int(match[1]) << 10 if match else None
    return None


def measure_fingerprint(job: tuple[MeasureJob, float]) -> CaseCost:
    """Measure a case as for the fingerprint; the time is that of the second run if there is enough for one."""
    argument, limit = job
    return _case_cost(lambda: measure_case(argument), lambda: (argument.part,), limit)


def measure_preprocessing(job: tuple[CaseJob, float]) -> CaseCost:
    """Preprocess a case; the time is that of the second run if there is enough for one."""
    argument, limit = job
    argument.folder.mkdir(parents=True, exist_ok=True)
    files = tuple(argument.folder / name for name in case_files(argument.case.identifier))
    return _case_cost(lambda: preprocess_case(argument), lambda: files, limit)


def _case_cost(run: Callable[[], object], files: Callable[[], tuple[Path, ...]], limit_s: float) -> CaseCost:
    started = time.perf_counter()
    base = peak_memory()
    first = seconds = timed(run)
    if 2 * first < limit_s:
        seconds = timed(run)
    return CaseCost(
        start_s=max(0.0, first - seconds),
        seconds=seconds,
        base_bytes=base,
        peak_bytes=peak_memory(),
        shared_bytes=_own_status("RssFile") or 0,
        job_s=time.perf_counter() - started,
        written_bytes=sum(p.stat().st_size for p in files()),
    )


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
