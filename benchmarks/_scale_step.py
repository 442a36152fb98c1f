"""One command in this process, measured: what ``benchmarks/scale.py`` starts for each step.

    python benchmarks/_scale_step.py RESULT.json MODULE [ARGUMENTS...]

Time counts from the start of the interpreter. Of a training, the time until its first batch is noted, and the
training is told to stop then, as SLURM would.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def since_start_s() -> float:
    """Seconds since this process was started."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return float(Path("/proc/uptime").read_text().split()[0]) - int(fields[19]) / CLOCK_TICKS


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def count_files(counts: Counter[str]) -> None:
    """Count what this process asks the file system for; worker processes count for themselves, and are not asked."""
    owner = os.getpid()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)) and os.getpid() == owner:
            counts["opened"] += 1
        elif event in ("os.scandir", "os.listdir"):
            counts["listed"] += 1

    sys.addaudithook(hook)
    stat = os.stat

    def counted(*arguments: Any, **options: Any) -> os.stat_result:
        counts["stat"] += 1
        return stat(*arguments, **options)

    os.stat = counted


def stop_after_first_batch(noted: dict[str, float], counts: Counter[str]) -> None:
    """Note when the training gets its first batch, then ask it to stop."""
    from nnunet_pt.training.loader import BatchLoader

    deliver = BatchLoader.__next__

    def first(self: BatchLoader) -> Any:
        batch = deliver(self)
        if not noted:
            cpu = time.process_time()
            noted.update(first_batch_s=since_start_s(), cpu_s=cpu, peak_mb=peak_mb(), **counts)
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    BatchLoader.__next__ = first  # type: ignore[method-assign]


def main() -> int:
    """Run the command; what was measured goes to the file."""
    result, module, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    counts: Counter[str] = Counter(opened=0, listed=0, stat=0)
    noted: dict[str, float] = {}
    command = importlib.import_module(f"nnunet_pt.cli.{module}")
    count_files(counts)
    if module == "train":
        stop_after_first_batch(noted, counts)
    status = command.main(arguments)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured: dict[str, Any] = {
        "status": status,
        "wall_s": since_start_s(),
        "cpu_s": time.process_time(),
        "workers_cpu_s": workers.ru_utime + workers.ru_stime,
        "peak_mb": peak_mb(),
        "worker_peak_mb": workers.ru_maxrss / 1024,
        **counts,
    }
    result.write_text(json.dumps(measured | noted))
    return int(status)


if __name__ == "__main__":
    raise SystemExit(main())
