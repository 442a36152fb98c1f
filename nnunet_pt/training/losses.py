"""Losses of nnU-Net: Dice with (binary) cross-entropy, and its variants.

Both terms need little more than a few sums over the softmax or sigmoid of the outputs, see :mod:`.loss_sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.core.registry import Registry
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.training.loss_sums import Sums, label_sums, region_sums

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTerms:
    """What a loss consists of.

    Attributes:
        dice: Whether the negative mean Dice is part of it.
        cross_entropy: Whether cross-entropy is part of it.
        smooth: Added to numerator and denominator of the Dice.
        top_percent: Only the largest percents of the voxels' cross-entropies count; None for all.
        label_smoothing: Share of the target that is spread evenly over all labels.
    """

    dice: bool = True
    cross_entropy: bool = True
    smooth: float = 1e-5
    top_percent: float | None = None
    label_smoothing: float = 0.0

    @property
    def works_with_regions(self) -> bool:
        """Whether the loss is defined for regions, which overlap."""
        return self.dice and self.top_percent is None


LOSSES: Registry[LossTerms] = Registry(
    "loss",
    {
        "default": LossTerms(),
        "dice_ce_no_smooth": LossTerms(smooth=0.0),
        "ce": LossTerms(dice=False),
        "dice": LossTerms(cross_entropy=False),
        "topk10": LossTerms(dice=False, top_percent=10),
        "topk10_smoothed": LossTerms(dice=False, top_percent=10, label_smoothing=0.1),
        "dice_topk10": LossTerms(top_percent=10),
    },
)


def build_loss(
    kind: str,
    *,
    labels: Labels,
    batch_dice: bool,
    deep_supervision_weights: Sequence[float] | None,
    reduce: Reduce | None = None,
) -> nn.Module:
    """The loss of a training.

    Args:
        kind: A name in :data:`LOSSES`.
        labels: Labels or regions of the dataset.
        batch_dice: Whether the Dice takes all samples of the (global) batch as one.
        deep_supervision_weights: One weight for each output, highest resolution first; None for a single output.
        reduce: Differentiable sum of a tensor over all processes; by default over those of ``torch.distributed``.

    Returns:
        A module to be called as ``loss(outputs, targets)``, with one tensor or a list each.

    Raises:
        UnknownNameError: If there is no such loss.
        TrainingError: If the loss is not defined for regions, but the dataset has some.
    """
    terms = LOSSES[kind]
    if labels.has_regions and not terms.works_with_regions:
        raise TrainingError(
            f"The loss {kind!r} is not defined for regions, since they overlap.",
            found=f"a dataset with {len(labels.regions)} regions",
            expected="labels that exclude each other",
            remedy="train with a loss for regions, such as the default one (-tr nnUNetTrainer)",
        )
    return SegmentationLoss(
        terms,
        regions=labels.has_regions,
        ignore_label=labels.ignore_label,
        batch_dice=batch_dice,
        weights=deep_supervision_weights,
        reduce=reduce or sum_over_processes,
    )


def deep_supervision_weights(num_outputs: int, *, distributed: bool = False) -> list[float]:
    """Weights of the losses of a network's outputs, highest resolution first.

    They halve from output to output; the last one gets none, the sum is 1.

    Args:
        num_outputs: Number of outputs. A single one gets all weight.
        distributed: Give the last one a negligible weight instead of none: distributed training needs a gradient for
            every parameter.
    """
    weights = [2.0**-i for i in range(num_outputs)]
    if num_outputs > 1:
        weights[-1] = 1e-6 if distributed else 0.0
    return [weight / sum(weights) for weight in weights]


class SegmentationLoss(nn.Module):
    """Cross-entropy minus mean Dice, over all processes.

    Every process gets the loss of the global batch, exactly as one process would have computed it; after averaging
    the gradients over the processes, so are these. (The top percents of cross-entropy are those of each process.)

    Args:
        terms: What the loss consists of.
        regions: Whether channels are regions (sigmoid) instead of labels (softmax; no Dice of the background).
        ignore_label: Value of voxels without annotation.
        batch_dice: Whether the Dice takes all samples of the batch as one.
        weights: One weight for each output, highest resolution first; None for a single output.
        reduce: Differentiable sum of a tensor over all processes.
    """

    def __init__(
        self,
        terms: LossTerms,
        *,
        regions: bool,
        ignore_label: int | None,
        batch_dice: bool,
        weights: Sequence[float] | None,
        reduce: Reduce,
    ) -> None:
        super().__init__()
        self.terms = terms
        self.regions = regions
        self.ignore_label = ignore_label
        self.batch_dice = batch_dice
        self.weights = None if weights is None else tuple(weights)
        self.reduce = reduce

    def forward(self, outputs: Tensor | Sequence[Tensor], targets: Tensor | Sequence[Tensor]) -> Tensor:
        """The loss.

        Args:
            outputs: Logits (B, C, *spatial) of any floating type; a list with deep supervision.
            targets: Labels: (B, 1, *spatial) of any integer type. Regions: (B, regions, *spatial) of zeros and ones;
                with an ignore label one more channel, which is 1 where there is no annotation. As many as outputs;
                for a single output the first of a list will be taken.

        Returns:
            Scalar, float32.
        """
        if isinstance(outputs, Tensor):
            return self._values([outputs], [targets if isinstance(targets, Tensor) else targets[0]])[0]
        if self.weights is None or isinstance(targets, Tensor) or not len(outputs) == len(targets) == len(self.weights):
            count = len(self.weights or ())
            raise ValueError(f"{len(outputs)} outputs and {len(targets)} targets for {count} deep supervision weights")
        chosen = [i for i, weight in enumerate(self.weights) if weight != 0]
        values = self._values([outputs[i] for i in chosen], [targets[i] for i in chosen])
        return torch.stack([self.weights[i] * value for i, value in zip(chosen, values, strict=True)]).sum()

    def _values(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Tensor]:
        """The loss of each output; the processes exchange one message for all of them."""
        messages = [self._message(o.flatten(2), t.flatten(2)) for o, t in zip(outputs, targets, strict=True)]
        totals = torch.split(self.reduce(torch.cat(messages)), [len(message) for message in messages])
        return [self._value(total) for total in totals]

    def _message(self, logits_bcv: Tensor, target_bcv: Tensor) -> Tensor:
        """Everything that has to be added up over the processes."""
        if self.regions:
            masked = self.ignore_label is not None
            sums = region_sums(logits_bcv, target_bcv, masked=masked)
            entropy, count = sums.entropy, sums.voxels * (1 if masked else logits_bcv.shape[1])
        else:
            voxelwise = self.terms.top_percent is not None
            sums = self._label_sums(logits_bcv, target_bcv[:, 0], voxelwise)
            entropy, count = self._top(sums.entropy) if voxelwise else (sums.entropy.sum(), sums.voxels)
        if not self.terms.cross_entropy:
            entropy = torch.zeros_like(entropy)
        if not self.terms.dice:
            return torch.stack([entropy, count])
        if self.batch_dice:
            return torch.cat([torch.stack([entropy, count]), sums.overlap.sum(0), sums.sizes.sum(0)])
        dice = self._dice(sums.overlap, sums.sizes)
        return torch.stack([entropy, count, dice.sum(), dice.new_full((), dice.numel())])

    def _value(self, total: Tensor) -> Tensor:
        """The loss, from a message added up over the processes."""
        loss = total[0] / total[1].clamp(min=1)
        if not self.terms.dice:
            return loss
        if self.batch_dice:
            return loss - self._dice(*total[2:].view(2, -1)).mean()
        return loss - total[2] / total[3]

    def _dice(self, overlap: Tensor, sizes: Tensor) -> Tensor:
        """Soft Dice of each class (last axis) from the overlap and the summed sizes of prediction and reference."""
        smooth = self.terms.smooth
        dice = (2 * overlap + smooth) / (sizes + smooth).clamp(min=1e-8)
        return dice if self.regions else dice[..., 1:]

    def _top(self, entropy_bv: Tensor) -> tuple[Tensor, Tensor]:
        """Sum and number of the largest cross-entropies."""
        number = max(1, int(entropy_bv.numel() * (self.terms.top_percent or 100) / 100))
        largest = entropy_bv.flatten().topk(number, sorted=False).values
        return largest.sum(), largest.new_full((), number)

    def _label_sums(self, logits_bcv: Tensor, target_bv: Tensor, voxelwise: bool) -> Sums:
        if not self.terms.label_smoothing:
            return label_sums(
                logits_bcv, target_bv, ignore=self.ignore_label, with_dice=self.terms.dice, voxelwise=voxelwise
            )
        entropy = nn.functional.cross_entropy(
            logits_bcv.float(),
            target_bv.long(),
            ignore_index=-100 if self.ignore_label is None else self.ignore_label,
            reduction="none",
            label_smoothing=self.terms.label_smoothing,
        )
        nothing = entropy.new_zeros(0)
        return Sums(entropy=entropy, overlap=nothing, sizes=nothing, voxels=nothing)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        del ctx
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        # Each process's values are part of every process's loss.
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


def sum_over_processes(values: Tensor) -> Tensor:
    """Add up a tensor over all processes, differentiably; the tensor itself where there is only one process."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return values
    total: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total
