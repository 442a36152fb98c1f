"""``-pretrained_weights``: start a training from the weights of another one, by nnU-Net's rule.

Every tensor is transferred except the segmentation layers, whose number of outputs depends on the labels. All others
must exist in the checkpoint with the network's shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.transfer.checkpoint import read_weights
from nnunet_pt.transfer.weights import listing, shape_text, tensors_with_names

SEGMENTATION_LAYERS = ".seg_layers."
AUTHORITATIVE = ".all_modules."  # blocks compute with these; other names of the same tensor can be out of date


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferReport:
    """What was taken from a checkpoint. A tensor with several names counts once.

    Attributes:
        source: The checkpoint.
        transferred: Names of the tensors that were taken.
        left: Names of the tensors that keep the values of the network's initialisation.
    """

    source: Path
    transferred: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        left = f"; {len(self.left)} keep their initial values: {', '.join(self.left)}" if self.left else ""
        return f"{len(self.transferred)} tensors taken from {self.source}{left}"


def load_pretrained_weights(network: nn.Module, path: Path) -> TransferReport:
    """Give a network the weights of a checkpoint, except for the segmentation layers.

    Args:
        network: The freshly built network; its tensors are changed in place.
        path: A checkpoint of nnU-Net, of nnssl, or a bare dictionary of tensors.

    Raises:
        CheckpointError: If the file cannot be used, or, with all differences at once, if it belongs to another network.
            The network is not changed then.
        StorageError: If the file cannot be accessed.
    """
    weights = read_weights(path)
    chosen: list[tuple[str, Tensor, Tensor]] = []
    differences, left = [], []
    for names, tensor in tensors_with_names(network):
        if any(SEGMENTATION_LAYERS in name for name in names):
            left.append(names[0])
            continue
        source = _source_of(names, weights)
        if source is None or source.shape != tensor.shape:
            differences.append(f"{names[0]}: checkpoint {shape_text(source)}, network {shape_text(tensor)}")
        else:
            chosen.append((names[0], tensor, source))
    if differences:
        raise CheckpointError(
            f"{path} holds the weights of another network.",
            found=f"{len(differences)} tensors that do not fit\n" + listing(differences, len(differences)),
            expected="all tensors of the network with equal shapes, except for the segmentation layers",
            remedy="make the plans from those of the other training: nnUNetv2_move_plans_between_datasets",
        )
    with torch.no_grad():
        for _, tensor, source in chosen:
            tensor.copy_(source)
    return TransferReport(source=path, transferred=tuple(name for name, _, _ in chosen), left=tuple(left))


def _source_of(names: list[str], weights: Mapping[str, Tensor]) -> Tensor | None:
    """The checkpoint's tensor for one with these names; the last one counts, as where they are loaded one by one."""
    present = [name for name in names if name in weights]
    authoritative = [name for name in present if AUTHORITATIVE in name]
    return weights[(authoritative or present)[-1]] if present else None
