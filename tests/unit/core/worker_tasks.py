"""Functions that the tests run in worker processes; found by the workers through ``sys.path``."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nnunet_pt.core.errors import ImageError
from nnunet_pt.core.files import atomic_path


def square(number: int) -> int:
    return number * number


def echo(value: Any) -> Any:
    return value


def process_id(_: object) -> int:
    return os.getpid()


def variables(names: list[str]) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def raise_for_three(number: int) -> int:
    if number == 3:
        raise ValueError("three is not allowed")
    return number


def image_error_for_three(number: int) -> int:
    if number == 3:
        raise ImageError("scan.nii.gz cannot be read", found="nothing", expected="an image", remedy="copy it again")
    return number


def image_error(_: object) -> None:
    raise ImageError("scan.nii.gz cannot be read")


def kill_itself_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def kill_itself_once(marker: str) -> str:
    """Dies the first time it is called with a file name, and not again."""
    path = Path(marker)
    if path.name.startswith("fatal") and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def sleep_where_it_can_be_seen(seconds: float) -> None:
    time.sleep(seconds)


def nap_then_die(_: object) -> None:
    sleep_where_it_can_be_seen(0.9)
    os.kill(os.getpid(), signal.SIGKILL)


def segmentation_fault(_: object) -> None:
    ctypes.string_at(0)


def leave_without_a_word(status: int) -> None:
    os._exit(status)


def system_exit(_: object) -> None:
    sys.exit(7)


def lambda_result(_: object) -> Any:
    return lambda: 0


class StubbornError(Exception):
    """Pickles, but cannot be rebuilt."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class LockedError(Exception):
    """Cannot even be pickled."""

    def __init__(self) -> None:
        super().__init__("locked", lambda: 0)


def stubborn_error(_: object) -> None:
    raise StubbornError(1, 2)


def locked_error(_: object) -> None:
    raise LockedError


class OwnMemoryError(MemoryError):
    """numpy has one like this."""


def out_of_memory_once(marker: str) -> str:
    path = Path(marker)
    if not path.exists():
        path.touch()
        raise OwnMemoryError("no room")
    return "done"


def print_both(text: str) -> None:
    print(f"out {text}")
    print(f"err {text}", file=sys.stderr)


def record_span(argument: tuple[str, str, float]) -> None:
    """Write when it began and ended."""
    folder, name, seconds = argument
    began = time.monotonic()
    time.sleep(seconds)
    (Path(folder) / name).write_text(f"{began} {time.monotonic()}")


def record_span_and_die_once(argument: tuple[str, str, float]) -> None:
    folder, name, _ = argument
    marker = Path(folder) / f".{name}.died"
    if name == "fatal" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    record_span(argument)


def announce_and_sleep(argument: tuple[str, float]) -> None:
    """Leave a file named after the process, then sleep while an unfinished file lies there."""
    folder, seconds = argument
    with atomic_path(Path(folder) / f"result-{os.getpid()}"):
        (Path(folder) / f"pid-{os.getpid()}").touch()
        time.sleep(seconds)


def die_while_a_child_lives(argument: tuple[str, int]) -> None:
    """A forked child keeps all of the worker's files and sockets open."""
    folder, seconds = argument
    child = os.fork()
    if child == 0:
        time.sleep(seconds)
        os._exit(0)
    (Path(folder) / f"child-{child}").touch()
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_child(seconds: int) -> int:
    child = os.fork()
    if child == 0:
        time.sleep(seconds)
        os._exit(0)
    return child


def subprocess_output(_: object) -> str:
    return subprocess.run([sys.executable, "-c", "print('hello')"], check=True, capture_output=True, text=True).stdout
