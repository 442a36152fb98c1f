"""``-pretrained_weights``: start a training from the weights of another one, by nnU-Net's rule.

Every tensor is transferred except the segmentation layers, whose number of outputs depends on the labels. All others
must exist in the checkpoint with the network's shapes.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from nnunet_pt.transfer.plan import TransferPlan, plan_transfer
from nnunet_pt.transfer.source import read_source


def load_pretrained_weights(network: nn.Module, path: Path) -> TransferPlan:
    """Give a network the weights of a checkpoint, except for the segmentation layers.

    Args:
        network: The freshly built network; its tensors are changed in place.
        path: Any file that :func:`nnunet_pt.transfer.source.read_source` reads.

    Returns:
        The account of what was transferred.

    Raises:
        CheckpointError: If the file cannot be used, or, with all differences at once, if it belongs to another network.
            The network is not changed then.
        StorageError: If the file cannot be accessed.
    """
    plan = plan_transfer(network, read_source(path), policy="strict")
    plan.apply(network)
    return plan
