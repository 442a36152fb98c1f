"""Quarter turns and exchanges of axes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from nnunet_pt.training.augmentation.base import Sample
from nnunet_pt.training.augmentation.shape import ExchangeAxes, Order, QuarterTurns, Turn, equal_axes


@pytest.mark.parametrize(
    ("patch", "axes"),
    [
        ((40, 40, 56), (0, 1)),
        ((20, 96, 96), (1, 2)),
        ((96, 40, 96), (0, 2)),
        ((64, 64, 64), (0, 1, 2)),
        ((40, 96, 56), ()),
        ((96, 96), (0, 1)),
        ((96, 80), ()),
    ],
)
def test_equal_axes(patch: tuple[int, ...], axes: tuple[int, ...]) -> None:
    assert equal_axes(patch) == axes


def test_image_and_segmentation_turn_together() -> None:
    image = torch.randn(2, 5, 4, 4)
    segmentation = torch.arange(80).reshape(1, 5, 4, 4).short()
    after = QuarterTurns((1, 2)).apply(Sample(image.clone(), segmentation.clone()), Turn(3, (1, 2)))
    assert np.array_equal(after.image.numpy(), np.rot90(image.numpy(), 3, (2, 3)))
    assert np.array_equal(after.segmentation.numpy(), np.rot90(segmentation.numpy(), 3, (2, 3)))
    after = ExchangeAxes((1, 2)).apply(Sample(image.clone(), segmentation.clone()), Order((0, 2, 1)))
    assert torch.equal(after.image, image.transpose(2, 3))
    assert torch.equal(after.segmentation, segmentation.transpose(2, 3))


def test_all_turns_and_orders_are_equally_likely() -> None:
    random = np.random.default_rng(0)
    turns = Counter(QuarterTurns((0, 1, 2)).sample(random, (1, 4, 4, 4)) for _ in range(6000))
    assert len(turns) == 12
    assert all(abs(n / 6000 - 1 / 12) < 0.02 for n in turns.values())
    assert {t.axes for t in turns} == {(0, 1), (0, 2), (1, 2)}
    orders = Counter(ExchangeAxes((0, 1, 2)).sample(random, (1, 4, 4, 4)).axes for _ in range(6000))
    assert len(orders) == 6
    assert all(abs(n / 6000 - 1 / 6) < 0.03 for n in orders.values())
    pairs = Counter(ExchangeAxes((0, 2)).sample(random, (1, 4, 5, 4)).axes for _ in range(2000))
    assert set(pairs) == {(0, 1, 2), (2, 1, 0)}
