"""Dice of the validation patches, summed up over an epoch: nnU-Net's pseudo Dice."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_pt.dataset.labels import Labels

# Voxels (of all channels) looked at together on a CPU.
PIECE = 2**19


class OnlineDice:
    """Counts of true positive, false positive and false negative voxels of each foreground class.

    Args:
        labels: Labels or regions of the dataset.
        device: Where the counts are kept, so that adding to them does not wait for the device.

    Attributes:
        counts: (3, classes), int64: true positives, false positives, false negatives. May be summed over processes.
    """

    def __init__(self, labels: Labels, device: torch.device | str = "cpu") -> None:
        self.labels = labels
        num_classes = labels.num_segmentation_heads - (0 if labels.has_regions else 1)
        self.counts = torch.zeros(3, num_classes, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            output: Logits (B, C, *spatial) of the highest resolution.
            target: As for the loss: (B, 1, *spatial), or (B, regions[+1], *spatial) with a mask of ignored voxels.
        """
        logits_bcv, target_bcv = output.flatten(2), target.flatten(2)
        voxels = logits_bcv.shape[2]
        step = voxels if output.device.type != "cpu" else max(1, PIECE // (logits_bcv.shape[0] * logits_bcv.shape[1]))
        for start in range(0, voxels, step):
            piece = slice(start, start + step)
            counts = self._regions if self.labels.has_regions else self._labels
            self.counts += counts(logits_bcv[:, :, piece], target_bcv[:, :, piece]).to(self.counts.device)

    def _labels(self, logits_bcv: Tensor, target_bcv: Tensor) -> Tensor:
        number = logits_bcv.shape[1]
        predicted, reference = logits_bcv.argmax(1), target_bcv[:, 0].long()
        hit = predicted == reference
        # Ignored voxels, hits and all else go to bins of their own; the first bin of the classes is the background.
        waste = torch.full_like(reference, number)
        known = torch.ones_like(hit) if self.labels.ignore_label is None else reference != self.labels.ignore_label
        true = _histogram(torch.where(hit & known, reference, waste), number)
        false_positive = _histogram(torch.where(~hit & known, predicted, waste), number)
        false_negative = _histogram(torch.where(~hit & known, reference, waste), number)
        return torch.stack([true, false_positive, false_negative])[:, 1:]

    def _regions(self, logits_bcv: Tensor, target_bcv: Tensor) -> Tensor:
        number = logits_bcv.shape[1]
        predicted, reference = logits_bcv > 0, target_bcv[:, :number] > 0
        if self.labels.has_ignore_label:
            known = target_bcv[:, number:] == 0
            predicted, reference = predicted & known, reference & known
        true = (predicted & reference).sum((0, 2))
        return torch.stack([true, predicted.sum((0, 2)) - true, reference.sum((0, 2)) - true])

    def dice_per_class(self) -> tuple[float, ...]:
        """Dice of each foreground class or region; nan for those that neither prediction nor reference has."""
        true, false_positive, false_negative = self.counts.double().cpu()
        return tuple((2 * true / (2 * true + false_positive + false_negative)).tolist())

    def mean_foreground_dice(self) -> float:
        """Mean over the classes that are there; nan if none is."""
        present = [dice for dice in self.dice_per_class() if dice == dice]
        return sum(present) / len(present) if present else float("nan")


def _histogram(values: Tensor, number: int) -> Tensor:
    """How often 0, ..., number - 1 occur; ``number`` itself is not counted."""
    if values.device.type == "cpu":
        return torch.bincount(values.flatten(), minlength=number + 1)[:number]
    return _histogram_by_comparison(values, number)


def _histogram_by_comparison(values: Tensor, number: int) -> Tensor:
    """The same for GPUs, which would have to wait for the size of the result, and for additions to the same bin."""
    return torch.stack([(values == value).sum() for value in range(number)])
