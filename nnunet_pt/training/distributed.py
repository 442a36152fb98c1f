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
from nnunet_pt.training.heartbeat import Heartbeat
from nnunet_pt.training.meeting_point import interruptible, meeting_host, wait_until_reached

# Machines of a cluster do not start at the same moment, and load Python from a slow disk
JOIN_TIMEOUT = timedelta(seconds=90)
# Whoever is lost is noticed by the heartbeat; others may have much less to validate than the last one
TIMEOUT = timedelta(hours=12)
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
    heartbeat = _meet(launch, device)
    try:
        yield processes
    except BaseException as error:
        if not _is_of_others(error):
            heartbeat.tell(error)
            raise
        assert isinstance(error, Exception)
        raise heartbeat.explain(error) from error
    else:
        heartbeat.tell(None)
    finally:
        dist.destroy_process_group()  # then the others notice
        heartbeat.close()


def _meet(launch: Launch, device: torch.device) -> Heartbeat:
    """Make the process group; gives what watches it."""
    from torch._C._distributed_c10d import TCPStore  # not every build of torch has it
    from torch.distributed.rendezvous import rendezvous

    backend = "nccl" if device.type == "cuda" else "gloo"
    host = meeting_host(launch)
    serves = launch.rank == 0 and not launch.has_store
    reached = "localhost" if serves else host
    url = f"tcp://{reached}:{launch.port}"
    try:
        with interruptible():
            if not serves:
                wait_until_reached(host, launch.port, JOIN_TIMEOUT.total_seconds())
            store, rank, size = next(rendezvous(url, launch.rank, launch.world_size, timeout=JOIN_TIMEOUT))
            store.set_timeout(TIMEOUT)
            own = TCPStore(reached, launch.port, wait_for_workers=False, timeout=JOIN_TIMEOUT)
            heartbeat = Heartbeat(
                own, store, rank=rank, world_size=size, host=launch.machine, serves=not launch.has_store
            )
            dist.init_process_group(
                backend,
                store=store,
                rank=rank,
                world_size=size,
                timeout=TIMEOUT,
                device_id=device if device.type == "cuda" else None,
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise _cannot_join(launch, f"{host}:{launch.port} ({backend})", error) from error
    heartbeat.start()
    return heartbeat


def _cannot_join(launch: Launch, where: str, error: Exception) -> TrainingError:
    problem = (
        f"Process {launch.rank} of {launch.world_size} (on {launch.machine}) could not join the others at {where}."
    )
    if launch.rank and launch.launcher == "srun":  # process 0 says the same
        return TrainingError(problem)
    return TrainingError(
        problem,
        found=str(error).splitlines()[0],
        remedy="check that all processes were started and that their machines reach each other; "
        "MASTER_ADDR and MASTER_PORT name another meeting point",
    )


def _is_of_others(error: BaseException) -> bool:
    """Whether an exchange with other processes has failed."""
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or any(text in str(error) for text in _LOST)


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
