"""Where the processes of several machines meet."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.core.settings import Launch

_PATIENCE_S = 30


def meeting_host(launch: Launch) -> str:
    """The host of process 0, by a name or address that this machine knows.

    Not every cluster lets machines find each other by the names that SLURM gives them; SLURM itself knows addresses.

    Raises:
        TrainingError: If the host is not known.
    """
    host = launch.address
    if _is_known(host):
        return host
    if launch.launcher == "srun":
        if launch.local_size == launch.world_size:
            return "localhost"
        address = slurm_address(host)
        if address is not None and _is_known(address):
            return address
    problem = f"The processes cannot meet at {host}: {launch.machine} does not know its address."
    if launch.rank and launch.launcher == "srun":  # process 0 does not know it either, and says more
        raise TrainingError(problem)
    raise TrainingError(problem, remedy="set MASTER_ADDR to the address of the machine where process 0 runs")


def slurm_address(node: str) -> str | None:
    """The address of a node according to SLURM; None if it does not say."""
    command = ["scontrol", "--oneliner", "show", "node", node]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bNodeAddr=(\S+)", done.stdout)
    return found.group(1) if found and found.group(1) != node else None


def wait_until_reached(host: str, port: int, patience_s: float) -> None:
    """Wait until somebody answers at an address.

    Torch would wait for twice as long, and then print pages.

    Raises:
        OSError: If nobody does.
    """
    end = time.monotonic() + patience_s
    while True:
        left = end - time.monotonic()
        try:
            socket.create_connection((host, port), timeout=min(5.0, max(0.1, left))).close()
        except OSError as error:
            if left <= 0:
                raise OSError(f"nobody answers there for {patience_s:g} s ({error})") from error
            time.sleep(min(0.2, left))
        else:
            return


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within this block signals end the process at once, even while compiled code waits for others.

    Python's own handlers would have to wait until that code returns, for up to half an hour.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _is_known(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
