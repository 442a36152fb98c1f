"""What one of several processes does in a test; a module, so that a spawned process can import it."""

from __future__ import annotations

from typing import Any

import torch

from nnunet_pt.core.settings import Launch
from nnunet_pt.training.distributed import process_group


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
