"""Losses against a plain transcription of their formulas, gradients included."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nnunet_pt.core.errors import TrainingError, UnknownNameError
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.training import loss_sums
from nnunet_pt.training.losses import LOSSES, build_loss, deep_supervision_weights

LABELS = Labels(labels={"background": 0, "a": 1, "b": 2})
LABELS_IGNORE = Labels(labels={"background": 0, "a": 1, "b": 2, "ignore": 3})
REGIONS = Labels(labels={"background": 0, "whole": (1, 2), "core": 2}, regions_class_order=(1, 2))
REGIONS_IGNORE = Labels(labels={"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}, regions_class_order=(1, 2))
ALL_LABELS = {"labels": LABELS, "labels_ignore": LABELS_IGNORE, "regions": REGIONS, "regions_ignore": REGIONS_IGNORE}


DEFINED = [
    (kind, which)
    for kind in LOSSES
    for which, labels in ALL_LABELS.items()
    if LOSSES[kind].works_with_regions or not labels.has_regions
]


def batch(
    labels: Labels,
    shape: Sequence[int] = (5, 6, 4),
    *,
    samples: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Random logits and a random target."""
    random = torch.Generator().manual_seed(seed)
    heads = labels.num_segmentation_heads
    logits = (torch.randn(samples, heads, *shape, generator=random) * 2).to(dtype).requires_grad_()
    if labels.has_regions:
        channels = heads + labels.has_ignore_label
        return logits, torch.randint(0, 2, (samples, channels, *shape), generator=random, dtype=torch.uint8)
    top = heads + labels.has_ignore_label
    return logits, torch.randint(0, top, (samples, 1, *shape), generator=random, dtype=torch.int16)


def naive(kind: str, labels: Labels, logits: Tensor, target: Tensor, *, batch_dice: bool) -> Tensor:
    """The loss with whole one-hot volumes in double precision, as the formulas say."""
    terms = LOSSES[kind]
    heads = logits.shape[1]
    z = logits.double().flatten(2)
    t = target.long().flatten(2)
    if labels.has_regions:
        g = t[:, :heads].double()
        valid = (t[:, heads:] == 0).double() if labels.has_ignore_label else torch.ones_like(g[:, :1])
        p = torch.sigmoid(z)
        voxels = -(g * torch.nn.functional.logsigmoid(z) + (1 - g) * torch.nn.functional.logsigmoid(-z)) * valid
        entropy = voxels.sum() / (valid.sum().clamp(min=1) if labels.has_ignore_label else g.numel())
    else:
        ignored = t[:, 0] == (labels.ignore_label if labels.has_ignore_label else -1)
        valid = (~ignored)[:, None].double()
        g = torch.nn.functional.one_hot(t[:, 0].masked_fill(ignored, 0), heads).movedim(-1, 1).double()
        log_p = z.log_softmax(1)
        p = log_p.exp()
        e = terms.label_smoothing
        voxels = -((g * (1 - e) + e / heads) * log_p).sum(1) * valid[:, 0]
        if terms.top_percent is None:
            entropy = voxels.sum() / valid.sum().clamp(min=1)
        else:
            entropy = (
                voxels.flatten().sort(descending=True).values[: int(voxels.numel() * terms.top_percent / 100)].mean()
            )
    axes = (0, 2) if batch_dice else (2,)
    overlap, sizes = (p * g * valid).sum(axes), ((p + g) * valid).sum(axes)
    dice = (2 * overlap + terms.smooth) / (sizes + terms.smooth).clamp(min=1e-8)
    dice = dice if labels.has_regions else dice[..., 1:]
    return entropy * terms.cross_entropy - dice.mean() * terms.dice


def value_and_gradient(loss: Tensor, logits: Tensor) -> tuple[float, Tensor]:
    (gradient,) = torch.autograd.grad(loss, logits)
    return float(loss.detach()), gradient


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize(("kind", "which"), DEFINED)
def test_value_and_gradient_are_those_of_the_formulas(kind: str, which: str, batch_dice: bool) -> None:
    labels = ALL_LABELS[which]
    logits, target = batch(labels)
    loss = build_loss(kind, labels=labels, batch_dice=batch_dice, deep_supervision_weights=None)
    value, gradient = value_and_gradient(loss(logits, target), logits)
    expected, expected_gradient = value_and_gradient(naive(kind, labels, logits, target, batch_dice=batch_dice), logits)
    assert value == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(
    which=st.sampled_from(sorted(ALL_LABELS)),
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=3),
    samples=st.integers(1, 3),
    batch_dice=st.booleans(),
    piece=st.sampled_from([20, 50, 2**19]),
    channels_last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_shape_in_any_pieces(
    which: str, shape: list[int], samples: int, batch_dice: bool, piece: int, channels_last: bool, seed: int
) -> None:
    labels = ALL_LABELS[which]
    logits, target = batch(labels, shape, samples=samples, seed=seed)
    layout = torch.contiguous_format
    if channels_last:
        layout = torch.channels_last if len(shape) == 2 else torch.channels_last_3d
        logits = logits.detach().to(memory_format=layout).requires_grad_()
    loss = build_loss("default", labels=labels, batch_dice=batch_dice, deep_supervision_weights=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_sums, "PIECE_ON_CPU", piece)
        value, gradient = value_and_gradient(loss(logits, target), logits)
    expected, expected_gradient = value_and_gradient(
        naive("default", labels, logits, target, batch_dice=batch_dice), logits
    )
    assert value == pytest.approx(expected, abs=2e-6)
    assert gradient.is_contiguous(memory_format=layout)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("which", ["labels", "regions_ignore"])
def test_other_floating_types_are_computed_in_float32(dtype: torch.dtype, which: str) -> None:
    labels = ALL_LABELS[which]
    logits, target = batch(labels, dtype=dtype)
    loss = build_loss("default", labels=labels, batch_dice=True, deep_supervision_weights=None)
    result = loss(logits, target)
    gradient = value_and_gradient(result, logits)[1]
    single = logits.detach().float().requires_grad_()
    expected, expected_gradient = value_and_gradient(loss(single, target), single)
    assert result.dtype == torch.float32
    assert float(result.detach()) == expected
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected_gradient.to(dtype))


def test_autocast_changes_nothing() -> None:
    logits, target = batch(LABELS_IGNORE)
    loss = build_loss("default", labels=LABELS_IGNORE, batch_dice=True, deep_supervision_weights=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(loss(logits, target), logits)
    expected, expected_gradient = value_and_gradient(loss(logits, target), logits)
    assert value == expected
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("which", ["labels", "labels_ignore"])
def test_sums_by_comparison_are_those_by_scattering(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ALL_LABELS[which]
    logits, target = batch(labels)
    loss = build_loss("default", labels=labels, batch_dice=False, deep_supervision_weights=None)
    expected = loss(logits, target)
    monkeypatch.setattr(loss_sums, "_add_by_label", loss_sums._add_by_comparison)
    torch.testing.assert_close(loss(logits, target), expected)


@pytest.mark.parametrize(("kind", "which"), [pair for pair in DEFINED if pair[1].endswith("ignore")])
def test_nothing_but_ignored_voxels(kind: str, which: str) -> None:
    labels = ALL_LABELS[which]
    logits, target = batch(labels)
    target.fill_(1 if labels.has_regions else 3)
    loss = build_loss(kind, labels=labels, batch_dice=True, deep_supervision_weights=None)
    value, gradient = value_and_gradient(loss(logits, target), logits)
    assert math.isfinite(value)
    assert not gradient.any()


def test_extreme_logits_stay_finite() -> None:
    logits, target = batch(LABELS)
    logits = (logits.detach() * 1e4).requires_grad_()
    loss = build_loss("default", labels=LABELS, batch_dice=True, deep_supervision_weights=None)
    value, gradient = value_and_gradient(loss(logits, target), logits)
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_a_nan_in_the_logits_is_not_hidden() -> None:
    logits, target = batch(LABELS)
    with torch.no_grad():
        logits[0, 0, 0, 0, 0] = float("nan")
    loss = build_loss("default", labels=LABELS, batch_dice=True, deep_supervision_weights=None)
    assert torch.isnan(loss(logits, target))


@pytest.mark.parametrize("which", ["labels_ignore", "regions_ignore"])
def test_only_logits_and_target_are_kept_for_the_gradient(which: str) -> None:
    labels = ALL_LABELS[which]
    logits, target = batch(labels, (16, 16, 16))
    loss = build_loss("default", labels=labels, batch_dice=True, deep_supervision_weights=None)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss(logits, target)
    small = 1000
    assert sum(kept.values()) <= logits.nbytes + target.nbytes + small


def test_deep_supervision_sums_weighted_losses_and_skips_those_without_weight() -> None:
    shapes = [(6, 6, 4), (3, 3, 2), (2, 2, 2)]
    pairs = [batch(LABELS, shape, seed=seed) for seed, shape in enumerate(shapes)]
    weights = deep_supervision_weights(3)
    outputs, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    loss = build_loss("default", labels=LABELS, batch_dice=True, deep_supervision_weights=weights)
    single = build_loss("default", labels=LABELS, batch_dice=True, deep_supervision_weights=None)
    total = loss(outputs, targets)
    parts = [float(single(o, t).detach()) for o, t in pairs]
    assert float(total.detach()) == pytest.approx(sum(w * p for w, p in zip(weights, parts, strict=True)))
    total.backward()
    assert outputs[0].grad is not None and outputs[1].grad is not None
    assert outputs[2].grad is None
    # A network whose deep supervision is off gives one output; the loader still gives all targets.
    assert float(loss(outputs[0], targets).detach()) == pytest.approx(parts[0])


def test_as_many_outputs_as_weights() -> None:
    logits, target = batch(LABELS)
    loss = build_loss("default", labels=LABELS, batch_dice=True, deep_supervision_weights=[0.5, 0.5])
    with pytest.raises(ValueError, match="1 outputs and 2 targets for 2"):
        loss([logits], [target, target])


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, [1]),  # nnU-Net divides by zero here
        (2, [1, 0]),
        (3, [2 / 3, 1 / 3, 0]),
        (5, [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0]),
    ],
)
def test_weights_halve_and_the_lowest_resolution_gets_none(number: int, expected: list[float]) -> None:
    assert deep_supervision_weights(number) == pytest.approx(expected)


def test_distributed_training_needs_a_gradient_everywhere() -> None:
    weights = deep_supervision_weights(4, distributed=True)
    assert sum(weights) == pytest.approx(1)
    assert 0 < weights[-1] < 1e-6


@pytest.mark.parametrize("kind", ["ce", "topk10", "topk10_smoothed", "dice_topk10"])
def test_losses_that_regions_do_not_have(kind: str) -> None:
    with pytest.raises(TrainingError, match="not defined for regions"):
        build_loss(kind, labels=REGIONS, batch_dice=True, deep_supervision_weights=None)


def test_unknown_loss() -> None:
    with pytest.raises(UnknownNameError, match="dice_topk10"):
        build_loss("dice_topk", labels=LABELS, batch_dice=True, deep_supervision_weights=None)


def test_many_classes_need_one_gradient_volume_and_little_more() -> None:
    """Every piece stays within the limit, whatever the number of classes."""
    labels = Labels(labels={"background": 0, **{f"c{i}": i for i in range(1, 62)}})
    logits, target = batch(labels, (24, 24, 24), samples=1)
    sizes = [logits.flatten(2)[:, :, piece].numel() for piece in loss_sums._pieces(logits.flatten(2))]
    assert len(sizes) > 1
    assert max(sizes) <= loss_sums.PIECE_ON_CPU
    assert sum(sizes) == logits.numel()
    loss = build_loss("default", labels=labels, batch_dice=True, deep_supervision_weights=None)
    value, gradient = value_and_gradient(loss(logits, target), logits)
    expected, expected_gradient = value_and_gradient(naive("default", labels, logits, target, batch_dice=True), logits)
    assert value == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-9)
