"""One of several processes that compute losses of parts of a batch; started by ``test_losses_distributed.py``.

Arguments: rank, number of processes, rendezvous file, file for the results.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed
from torch import nn

from nnunet_pt.dataset.labels import Labels
from nnunet_pt.training.losses import build_loss

GLOBAL_BATCH = 5
LABELS = Labels(labels={"background": 0, "a": 1, "b": 2, "ignore": 3})
REGIONS = Labels(labels={"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}, regions_class_order=(1, 2))


def losses(chosen: slice) -> Iterator[tuple[str, torch.Tensor, nn.Module]]:
    """Loss and network for every kind of loss, for some samples of the same global batch."""
    for labels in (LABELS, REGIONS):
        for batch_dice in (False, True):
            random = torch.Generator().manual_seed(1)
            data = torch.randn(GLOBAL_BATCH, 1, 5, 4, 6, generator=random)
            if labels.has_regions:
                target = torch.randint(0, 2, (GLOBAL_BATCH, 3, 5, 4, 6), generator=random, dtype=torch.uint8)
            else:
                target = torch.randint(0, 4, (GLOBAL_BATCH, 1, 5, 4, 6), generator=random, dtype=torch.int16)
                target[0] = 3  # a sample without annotation, so that the processes have unequal numbers of voxels
            network: nn.Module = nn.Conv3d(1, labels.num_segmentation_heads, 3, padding=1)
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
            if torch.distributed.is_initialized():
                network = nn.parallel.DistributedDataParallel(network)
            loss = build_loss("default", labels=labels, batch_dice=batch_dice, deep_supervision_weights=[0.7, 0.3])
            output, part = network(data[chosen]), target[chosen]
            # The same resolution twice, one of them from a part of the image.
            result = loss([output, output[:, :, :3]], [part, part[:, :, :3]])
            result.backward()
            yield f"{labels.has_regions}-{batch_dice}", result.detach(), network


def figures(chosen: slice) -> dict[str, list[torch.Tensor]]:
    """Loss and gradients by the name of the loss."""
    return {
        name: [value, *(p.grad for p in network.parameters() if p.grad is not None)]
        for name, value, network in losses(chosen)
    }


def main() -> None:
    """Join the other processes and write loss and gradients."""
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    rendezvous = Path(sys.argv[3]).as_uri()
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    chosen = slice(0, 3) if rank == 0 else slice(3, GLOBAL_BATCH)
    torch.save(figures(chosen), sys.argv[4])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
