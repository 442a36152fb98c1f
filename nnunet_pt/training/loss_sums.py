"""Sums over softmax and sigmoid probabilities that Dice and cross-entropy are made of, with written-out gradients.

The volumes are taken piece by piece, so that no one-hot target and no volume of probabilities is ever made or kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Elements (samples x channels x voxels) of one piece: within the cache of a CPU, large enough to keep a GPU busy.
PIECE_ON_CPU = 2**19
PIECE_ON_GPU = 2**27


class Sums(NamedTuple):
    """What a loss needs to know.

    Attributes:
        entropy: Summed cross-entropy (B, 1) or (), or that of each voxel (B, V).
        overlap: Overlap (B, C) of probabilities and reference; empty without Dice.
        sizes: Sum (B, C) of the probabilities plus that of the reference; empty without Dice.
        voxels: Number () of voxels that are not ignored, in all samples.
    """

    entropy: Tensor
    overlap: Tensor
    sizes: Tensor
    voxels: Tensor


def label_sums(logits_bcv: Tensor, target_bv: Tensor, *, ignore: int | None, with_dice: bool, voxelwise: bool) -> Sums:
    """Sums for labels, with probabilities from a softmax.

    Args:
        logits_bcv: Logits of any floating type; everything is computed in float32.
        target_bv: Labels of any integer type.
        ignore: Label of voxels that do not count.
        with_dice: Whether overlap and sizes are needed.
        voxelwise: Whether the cross-entropy of each voxel is needed, instead of the sum; 0 where ignored.
    """
    return Sums(*_LabelSums.apply(logits_bcv, target_bv, ignore, with_dice, voxelwise))  # type: ignore[no-untyped-call]


def region_sums(logits_brv: Tensor, target_brv: Tensor, *, masked: bool) -> Sums:
    """Sums for regions, with probabilities from a sigmoid.

    Args:
        logits_brv: Logits of any floating type; everything is computed in float32.
        target_brv: Zeros and ones; with a mask in one more channel, which is 1 for voxels that do not count.
        masked: Whether there is a mask.
    """
    return Sums(*_RegionSums.apply(logits_brv, target_brv, masked))  # type: ignore[no-untyped-call]


class _LabelSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_bcv: Tensor, target_bv: Tensor, ignore: int | None, with_dice: bool, voxelwise: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, channels, voxels = logits_bcv.shape
        zeros = torch.zeros(batch, channels, device=logits_bcv.device)
        overlap, sizes = (zeros, zeros.clone()) if with_dice else (zeros[:0, 0], zeros[:0, 0])
        entropies = zeros.new_zeros(batch, voxels if voxelwise else 1)
        counted = zeros.new_zeros(()) + (0 if ignore is not None else target_bv.numel())
        for piece in _pieces(logits_bcv):
            labels, valid = _split_ignored(target_bv[:, piece], ignore)
            log_probabilities = logits_bcv[:, :, piece].float().log_softmax(1)
            entropy = log_probabilities.gather(1, labels[:, None])[:, 0].neg_()
            if valid is not None:
                entropy *= valid
                counted += valid.sum()
            if voxelwise:
                entropies[:, piece] = entropy
            else:
                entropies += entropy.sum(1, keepdim=True)
            if with_dice:
                probabilities = log_probabilities.exp_()
                hits = entropy.neg_().exp_()
                if valid is not None:
                    hits *= valid
                    probabilities *= valid[:, None]
                sizes += probabilities.sum(2)
                _add_by_label(overlap, labels, hits)
                _add_by_label(sizes, labels, torch.ones_like(hits) if valid is None else valid.float())
        ctx.save_for_backward(logits_bcv, target_bv)
        ctx.ignore = ignore
        ctx.mark_non_differentiable(counted)
        ctx.set_materialize_grads(False)
        return entropies, overlap, sizes, counted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        by_entropy, by_overlap, by_size, _ = gradients
        logits_bcv, target_bv = ctx.saved_tensors
        result = torch.empty_like(logits_bcv)
        for piece in _pieces(logits_bcv):
            labels, valid = _split_ignored(target_bv[:, piece], ctx.ignore)
            probabilities = logits_bcv[:, :, piece].float().softmax(1)
            # The gradient by the logarithm of the probabilities; its own softmax gradient follows below.
            by_log = torch.zeros_like(probabilities) if by_size is None else probabilities * by_size[:, :, None]
            if valid is not None:
                by_log *= valid[:, None]
            at_label = torch.zeros_like(probabilities[:, 0])
            if by_overlap is not None:
                at_label = by_overlap.gather(1, labels) * probabilities.gather(1, labels[:, None])[:, 0]
            if by_entropy is not None:
                at_label -= by_entropy[:, piece] if by_entropy.shape[1] > 1 else by_entropy
            if valid is not None:
                at_label *= valid
            by_log.scatter_add_(1, labels[:, None], at_label[:, None])
            result[:, :, piece] = by_log.addcmul_(probabilities, by_log.sum(1, keepdim=True), value=-1)
        return result, None, None, None, None


class _RegionSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_bcv: Tensor, target_bcv: Tensor, masked: bool) -> tuple[Tensor, ...]:
        batch, channels, voxels = logits_bcv.shape
        overlap = torch.zeros(batch, channels, device=logits_bcv.device)
        sizes, entropy = torch.zeros_like(overlap), overlap.new_zeros(())
        counted = overlap.new_zeros(()) + (0 if masked else batch * voxels)
        for piece in _pieces(logits_bcv):
            reference, valid = _split_mask(target_bcv[:, :, piece], channels, masked)
            logits = logits_bcv[:, :, piece].float()
            entropies = nn.functional.binary_cross_entropy_with_logits(logits, reference, reduction="none")
            probabilities = logits.sigmoid()
            if valid is not None:
                entropies *= valid
                probabilities *= valid
                reference *= valid
                counted += valid.sum()
            entropy += entropies.sum()
            overlap += (probabilities * reference).sum(2)
            sizes += probabilities.add_(reference).sum(2)
        ctx.save_for_backward(logits_bcv, target_bcv)
        ctx.masked = masked
        ctx.mark_non_differentiable(counted)
        return entropy, overlap, sizes, counted

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_entropy, by_overlap, by_size, _ = gradients
        logits_bcv, target_bcv = ctx.saved_tensors
        result = torch.empty_like(logits_bcv)
        for piece in _pieces(logits_bcv):
            reference, valid = _split_mask(target_bcv[:, :, piece], logits_bcv.shape[1], ctx.masked)
            probabilities = logits_bcv[:, :, piece].float().sigmoid()
            gradient = reference * by_overlap[:, :, None] + by_size[:, :, None]
            gradient *= probabilities * (1 - probabilities)
            gradient += (probabilities - reference) * by_entropy
            if valid is not None:
                gradient *= valid
            result[:, :, piece] = gradient
        return result, None, None


def _pieces(logits_bcv: Tensor) -> Iterator[slice]:
    """Slices of the last axis, each as large as is good for the device."""
    batch, channels, voxels = logits_bcv.shape
    limit = PIECE_ON_CPU if logits_bcv.device.type == "cpu" else PIECE_ON_GPU
    number = -(-batch * channels * voxels // limit)
    step = max(1, -(-voxels // max(1, number)))
    return (slice(start, min(start + step, voxels)) for start in range(0, voxels, step))


def _split_ignored(target: Tensor, ignore: int | None) -> tuple[Tensor, Tensor | None]:
    """Labels as indices, with 0 where they are ignored, and where they are not."""
    labels = target.long()
    if ignore is None:
        return labels, None
    valid = labels != ignore
    return labels * valid, valid


def _split_mask(target_bcv: Tensor, channels: int, masked: bool) -> tuple[Tensor, Tensor | None]:
    """Regions as numbers (a copy), and where they are known (B, 1, V)."""
    reference = target_bcv[:, :channels].to(torch.float32, copy=True)
    return reference, (target_bcv[:, channels:] == 0).float() if masked else None


def _add_by_label(sums_bc: Tensor, labels_bv: Tensor, values_bv: Tensor) -> None:
    """Add each value to the sum of its label."""
    if sums_bc.device.type == "cpu":
        sums_bc.scatter_add_(1, labels_bv, values_bv)
    else:
        _add_by_comparison(sums_bc, labels_bv, values_bv)


def _add_by_comparison(sums_bc: Tensor, labels_bv: Tensor, values_bv: Tensor) -> None:
    """The same for GPUs, where scattering to so few places would wait, and differ from run to run."""
    classes = torch.arange(sums_bc.shape[1], device=sums_bc.device)
    sums_bc += torch.where(labels_bv[:, None] == classes[None, :, None], values_bv[:, None], 0).sum(2)
