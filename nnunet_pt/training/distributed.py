"""Training by several processes: who they are, how they meet, what they agree on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.core.settings import Launch
from nnunet_pt.training.meeting_point import interruptible, meeting_host

# Longer than a slow file system needs for a checkpoint, and than one case of the final validation takes
TIMEOUT = timedelta(minutes=30)
_LOST = ("gloo", "Connection closed by peer", "Connection reset by peer")  # gloo raises nothing more specific


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a training, seen from one of them.

    Attributes:
        rank: Number of this process.
        world_size: How many there are.
        local_rank: Number of this process on its machine.
        on_this_machine: How many of them share this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    on_this_machine: int = 1

    @classmethod
    def of(cls, launch: Launch | None) -> Processes:
        """The processes that a launcher started."""
        return cls() if launch is None else cls(launch.rank, launch.world_size, launch.local_rank, launch.local_size)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports and writes."""
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes, the same on each of them; ``values`` is overwritten."""
        if self.are_several:
            dist.all_reduce(values)
        return values

    def collect(self, texts: Sequence[str]) -> list[str]:
        """The texts of all processes, in their order."""
        if not self.are_several:
            return list(texts)
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, list(texts))
        return [text for part in found for text in part]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.are_several:
            dist.barrier()


@contextlib.contextmanager
def process_group(launch: Launch | None, device: torch.device) -> Iterator[Processes]:
    """Meet the other processes; within the block they can exchange tensors.

    Args:
        launch: How this process was started.
        device: Where this process computes; NCCL connects GPUs, gloo everything else.

    Raises:
        TrainingError: If the processes do not find each other, or if one of them ends before the others.
    """
    processes = Processes.of(launch)
    if launch is None or not processes.are_several:
        yield processes
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    host = meeting_host(launch)
    try:
        with interruptible():
            dist.init_process_group(
                backend,
                init_method=f"tcp://{host}:{launch.port}",
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=TIMEOUT,
                device_id=device if device.type == "cuda" else None,
            )
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"Process {launch.rank} of {launch.world_size} could not join the others at {host}:"
            f"{launch.port} ({backend}).",
            found=str(error).splitlines()[0],
            remedy="check that all processes were started and that their machines reach each other; "
            "MASTER_ADDR and MASTER_PORT name another meeting point",
        ) from error
    try:
        yield processes
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(text in str(error) for text in _LOST):
            raise
        raise TrainingError(
            f"Another process of this training has ended, so process {launch.rank} of {launch.world_size} ends, too.",
            found=str(error).splitlines()[0].partition(" This is typically")[0],
            remedy="look at the messages of the other processes; when the cause is gone, continue with --c",
        ) from error
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device, processes: Processes) -> torch.device:
    """The device of this process: with several processes on a machine each has a GPU of its own.

    Raises:
        TrainingError: If there are not as many GPUs.
    """
    if device.type != "cuda" or not processes.are_several:
        return device
    if processes.local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"There is no GPU for process {processes.local_rank} of this machine.",
            found=f"{torch.cuda.device_count()} GPUs",
            remedy="start fewer processes (-num_gpus), or let CUDA_VISIBLE_DEVICES name more GPUs",
        )
    torch.cuda.set_device(processes.local_rank)
    return torch.device("cuda", processes.local_rank)
