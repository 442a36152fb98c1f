"""What one of several processes does in a test; a module, so that a spawned process can import it."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nnunet_pt.core.errors import NnunetError, TrainingStopped
from nnunet_pt.core.settings import Launch
from nnunet_pt.training import heartbeat
from nnunet_pt.training.distributed import Processes, process_group


def launch(rank: int, world_size: int, port: int) -> Launch:
    return Launch(
        rank=rank,
        world_size=world_size,
        local_rank=rank,
        local_size=world_size,
        address="localhost",
        port=port,
        launcher="torchrun",
    )


def member(rank: int, port: int, results: Any) -> None:
    """Meet the other, exchange numbers and texts, and report them."""
    torch.set_num_threads(1)
    with process_group(launch(rank, 2, port), torch.device("cpu")) as processes:
        total = processes.sum(torch.tensor([1.0, float(rank), float("nan") if rank else 0.0]))
        texts = processes.collect([f"case{rank}"] * (rank + 1))
        processes.barrier()
        results.put((rank, processes.is_main, total.tolist()[:2], bool(total[2].isnan()), texts))


def doomed_member(rank: int, number: int, port: int, fate: str, folder: Path, silence_s: float) -> None:
    """Exchange numbers with the others, until one of the processes meets its fate; what is said goes to a file."""
    torch.set_num_threads(1)
    heartbeat.BEAT_S, heartbeat.SILENCE_S = 0.1, silence_s
    os.dup2(os.open(folder / f"{rank}.txt", os.O_CREAT | os.O_WRONLY), 2)
    try:
        with process_group(replace(launch(rank, number, port), machine=f"machine{rank}"), torch.device("cpu")) as all_:
            _exchange(all_, fate, folder, silence_s)
        print("done", file=sys.stderr)
    except NnunetError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
    except ValueError as error:
        print(error, file=sys.stderr)


def _exchange(processes: Processes, fate: str, folder: Path, silence_s: float) -> None:
    goes_on = True
    for step in range(10_000):
        if fate != "wait" and step == 20:
            (folder / "met").touch()
            if fate == "raise":
                raise ValueError("a case that nobody can read\nin the middle")
            if fate == "stop":
                raise TrainingStopped("SIGTERM stopped it.", exit_status=143)
            if fate == "work":
                time.sleep(1.5 * silence_s)
                goes_on = False
            else:
                os.kill(os.getpid(), getattr(signal, fate))
        if not bool(processes.sum(torch.tensor(0.0 if goes_on else 1.0)) == 0):
            break
    if processes.rank == 1:
        time.sleep(1.5 * silence_s)
