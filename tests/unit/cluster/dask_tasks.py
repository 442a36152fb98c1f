"""Functions that the tests run on workers of Dask, and how a small cluster is started."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_pt.core.errors import ImageError
from nnunet_pt.core.files import atomic_path
from nnunet_pt.core.local_executor import THREAD_VARIABLES

PROJECT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60.0


def count_run(file: str) -> str:
    """Note that a case was begun; gives its name."""
    with Path(file).open("a", encoding="utf-8") as notes:
        notes.write(f"{os.getppid()}\n")
    return Path(file).name


def kill_dask_worker_once(file: str) -> str:
    name = count_run(file)
    if name == "fatal" and len(Path(file).read_text().splitlines()) == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(30)
    time.sleep(0.1)
    return name


def kill_itself_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ImageError("scan.nii.gz cannot be read", found="nothing", remedy="copy it again")
    if number == 4:
        raise ValueError("four is odd")
    return number


def say_something(text: str) -> None:
    logger = logging.getLogger("nnunet_pt.tasks")
    logger.debug("not wanted")
    logger.warning("%s is strange", text)
    warnings.warn(f"{text} is old", UserWarning, stacklevel=1)


def record_span(file: str) -> None:
    """Write where it ran, and when it began and ended."""
    began = time.monotonic()
    time.sleep(0.3)
    Path(file).write_text(f"{os.getppid()} {began} {time.monotonic()}")


def thread_variables(_: object) -> list[str | None]:
    return [os.environ.get(name) for name in THREAD_VARIABLES]


def sleep_with_an_open_file(folder: str) -> None:
    with atomic_path(Path(folder) / "result"):
        (Path(folder) / f"pid-{os.getpid()}").touch()
        time.sleep(60)


@dataclass
class DaskProcesses:
    """A scheduler and workers, each in a process of its own.

    Attributes:
        folder: For their files and logs.
        workers: The workers; each has a nanny, which starts it again when it dies.
    """

    folder: Path
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, KeyError):
                return str(json.loads((self.folder / "scheduler.json").read_text())["address"])
            time.sleep(0.05)
        raise TimeoutError((self.folder / "scheduler.log").read_text())

    def start_worker(self, *options: str, before: str = "") -> subprocess.Popen[bytes]:
        """Start a worker; ``before`` is code that runs in it first."""
        words = [self.address, "--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(self.folder), *options]
        code = (
            f"import sys; sys.argv[0] = 'dask-worker'; {before}\nfrom distributed.cli.dask_worker import main; main()"
        )
        worker = start(self.folder / f"worker{len(self.workers)}.log", ["-c", code, *words])
        self.workers.append(worker)
        return worker


def start(log: Path, words: Sequence[str]) -> subprocess.Popen[bytes]:
    paths = [str(PROJECT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, *words], stdout=file, stderr=file, env=environment)


def end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def dask_processes(folder: Path) -> Iterator[DaskProcesses]:
    """A scheduler without workers."""
    words = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0"]
    scheduler = start(folder / "scheduler.log", [*words, "--scheduler-file", str(folder / "scheduler.json")])
    processes = DaskProcesses(folder, scheduler)
    try:
        yield processes
    finally:
        for together in (processes.workers, [processes.scheduler]):  # workers look for a scheduler that is gone
            for process in together:
                process.terminate()
            for process in together:
                end(process)
