"""The Dice of validation patches against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_pt.dataset.labels import Labels
from nnunet_pt.training import online_metrics
from nnunet_pt.training.online_metrics import OnlineDice

LABELS = Labels(labels={"background": 0, "a": 1, "b": 2})
LABELS_IGNORE = Labels(labels={"background": 0, "a": 1, "b": 2, "ignore": 3})
REGIONS = Labels(labels={"background": 0, "whole": (1, 2), "core": 2}, regions_class_order=(1, 2))
REGIONS_IGNORE = Labels(labels={"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}, regions_class_order=(1, 2))
ALL_LABELS = {"labels": LABELS, "labels_ignore": LABELS_IGNORE, "regions": REGIONS, "regions_ignore": REGIONS_IGNORE}


def batch(labels: Labels, random: np.random.Generator, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (4, 5, 3)
    heads, ignored = labels.num_segmentation_heads, int(labels.has_ignore_label)
    logits = torch.from_numpy(random.normal(size=(samples, heads, *shape)).astype(np.float32))
    if labels.has_regions:
        target = random.integers(0, 2, (samples, heads + ignored, *shape)).astype(np.uint8)
    else:
        target = random.integers(0, heads + ignored, (samples, 1, *shape)).astype(np.int16)
    return logits, torch.from_numpy(target)


def counted_by_hand(labels: Labels, logits: np.ndarray, target: np.ndarray) -> list[list[int]]:
    """True positives, false positives, false negatives, class by class."""
    rows: list[list[int]] = []
    heads = labels.num_segmentation_heads
    for c in range(0 if labels.has_regions else 1, heads):
        if labels.has_regions:
            known = target[:, -1] == 0 if labels.has_ignore_label else np.ones_like(target[:, 0], bool)
            predicted, reference = 1 / (1 + np.exp(-logits[:, c])) > 0.5, target[:, c] == 1
        else:
            known = target[:, 0] != 3
            predicted, reference = logits.argmax(1) == c, target[:, 0] == c
        rows.append(
            [
                int((predicted & reference & known).sum()),
                int((predicted & ~reference & known).sum()),
                int((~predicted & reference & known).sum()),
            ]
        )
    return rows


@settings(max_examples=25, deadline=None)
@given(
    which=st.sampled_from(sorted(ALL_LABELS)),
    seed=st.integers(0, 1000),
    samples=st.integers(1, 3),
    piece=st.sampled_from([1, 100, 2**19]),
    by_comparison=st.booleans(),
)
def test_counts_are_those_of_every_voxel(which: str, seed: int, samples: int, piece: int, by_comparison: bool) -> None:
    labels = ALL_LABELS[which]
    random = np.random.default_rng(seed)
    dice = OnlineDice(labels)
    expected = np.zeros((3, 2), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online_metrics, "PIECE", piece)
        if by_comparison:
            patch.setattr(online_metrics, "_histogram", online_metrics._histogram_by_comparison)
        for _ in range(2):
            logits, target = batch(labels, random, samples)
            dice.update(logits, target)
            expected += np.array(counted_by_hand(labels, logits.numpy(), target.numpy())).T
    assert dice.counts.tolist() == expected.tolist()
    true, false_positive, false_negative = expected
    values = 2 * true / (2 * true + false_positive + false_negative)
    assert dice.dice_per_class() == pytest.approx(values)
    assert dice.mean_foreground_dice() == pytest.approx(values.mean())


def test_classes_that_are_nowhere_do_not_count() -> None:
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 1, :2] = 1
    logits[:, 0, 2:] = 1
    target = torch.zeros(1, 1, 4, 4, dtype=torch.int16)
    target[:, :, :1] = 1
    dice = OnlineDice(LABELS)
    dice.update(logits, target)
    first, second = dice.dice_per_class()
    assert first == pytest.approx(2 * 4 / (2 * 4 + 4))
    assert math.isnan(second)
    assert dice.mean_foreground_dice() == first


def test_nothing_seen_yet() -> None:
    dice = OnlineDice(LABELS)
    assert all(math.isnan(value) for value in dice.dice_per_class())
    assert math.isnan(dice.mean_foreground_dice())


def test_counts_of_processes_can_be_added() -> None:
    random = np.random.default_rng(0)
    whole, parts = OnlineDice(LABELS_IGNORE), [OnlineDice(LABELS_IGNORE) for _ in range(2)]
    for part in parts:
        logits, target = batch(LABELS_IGNORE, random, 2)
        whole.update(logits, target)
        part.update(logits, target)
    parts[0].counts += parts[1].counts
    assert parts[0].dice_per_class() == whole.dice_per_class()


def test_no_gradients() -> None:
    logits, target = batch(REGIONS, np.random.default_rng(0), 1)
    dice = OnlineDice(REGIONS)
    dice.update(logits.requires_grad_(), target)
    assert not dice.counts.requires_grad
