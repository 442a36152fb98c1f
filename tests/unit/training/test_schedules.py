"""Learning rates: nnU-Net's values, and phases that fit together."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.training.recipe import DEFAULT, SCHEDULE_NAMES, TrainingRecipe
from nnunet_pt.training.recipes import RECIPES
from nnunet_pt.training.schedules import SCHEDULES, learning_rates, linear_warmup, lr_at, phase_at, phases, poly


def test_there_is_a_schedule_for_every_name() -> None:
    assert set(SCHEDULES) == set(SCHEDULE_NAMES)


@pytest.mark.parametrize(
    ("name", "epoch", "expected"),
    [  # recorded from nnU-Net
        ("nnUNetTrainer", 0, 0.01),
        ("nnUNetTrainer", 37, 0.009666375426084738),
        ("nnUNetTrainer", 999, 1.995262314968881e-05),
        ("nnUNetTrainer_5epochs", 4, 0.0023492378861760376),
        ("nnUNetTrainer_1epoch", 0, 0.01),
        ("nnUNetTrainerAdam3en4", 1, 0.00029972998649504737),
        ("nnUNetTrainerCosAnneal", 1, 0.009999975326009292),
        ("nnUNetTrainerCosAnneal", 4, 0.009999605221019081),
        ("nnUNetTrainer_warmup", 0, 0.0002),
        ("nnUNetTrainer_warmup", 4, 0.001),
        ("nnUNetTrainer_warmup", 49, 0.01),
        ("nnUNetTrainer_warmup", 50, 0.01),
        ("nnUNet_Primus_M_Trainer_BS8_2e4", 0, 4e-06),
    ],
)
def test_rates_of_nnunet(name: str, epoch: int, expected: float) -> None:
    assert lr_at(RECIPES[name], epoch) == pytest.approx(expected, rel=1e-9)


def test_poly_after_a_warmup_has_the_remaining_epochs_to_itself() -> None:
    rates = learning_rates(replace(DEFAULT, num_epochs=60, warmup_epochs=10))
    assert rates[10:] == [poly(e, lr=0.01, end=50) for e in range(50)]
    assert rates[:10] == [linear_warmup(e, lr=0.01, epochs=10) for e in range(10)]


def test_nothing_but_warmup() -> None:
    rates = learning_rates(replace(DEFAULT, num_epochs=5, warmup_epochs=5))
    assert rates == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])


def test_heads_first_then_a_second_warmup() -> None:
    """The course that fine-tuning with separately trained heads takes."""
    recipe = TrainingRecipe(
        name="heads", num_epochs=150, head_epochs=15, warmup_epochs=50, initial_lr=1e-4, head_lr_factor=0.1
    )
    rates = learning_rates(recipe)
    for e, rate in enumerate(rates):
        if e < 7:
            expected = 1e-5 / 7 * (1 + e)
        elif e < 15:
            expected = 1e-5 * (1 - (e - 7) / 8) ** 0.9
        elif e < 65:
            expected = 1e-4 / 50 * (1 + e - 15)
        else:
            expected = 1e-4 * (1 - (e - 65) / 85) ** 0.9
        assert rate == pytest.approx(expected, rel=1e-12)
    assert [phase.trains for phase in phases(recipe)] == ["heads", "heads", "all", "all"]
    assert [phase.fresh_optimizer for phase in phases(recipe)] == [True, False, True, False]


@pytest.mark.parametrize("heads", [0, 1, 2])
@pytest.mark.parametrize("warmup", [0, 3])
def test_a_new_optimiser_when_other_parameters_are_trained(heads: int, warmup: int) -> None:
    """Once before the heads, once before everything; the momentum is kept from a warm-up to what follows it."""
    found = phases(replace(DEFAULT, num_epochs=20, head_epochs=heads, warmup_epochs=warmup))
    for before, phase in zip((None, *found), found, strict=False):
        assert phase.fresh_optimizer == (before is None or before.trains != phase.trains)


@given(
    epochs=st.integers(1, 300),
    heads=st.integers(0, 60),
    warmup=st.integers(0, 60),
    schedule=st.sampled_from(SCHEDULE_NAMES),
    lr=st.floats(1e-6, 1),
)
def test_phases_have_no_gaps_and_rates_stay_within_bounds(
    epochs: int, heads: int, warmup: int, schedule: str, lr: float
) -> None:
    recipe = TrainingRecipe(
        num_epochs=epochs + heads + warmup, head_epochs=heads, warmup_epochs=warmup, schedule=schedule, initial_lr=lr
    )
    found = phases(recipe)
    assert found[0].start == 0
    assert found[-1].end == recipe.num_epochs
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    rates = learning_rates(recipe)
    assert all(0 < rate <= lr * (1 + 1e-12) for rate in rates)
    start = heads + warmup
    assert all(a >= b for a, b in itertools.pairwise(rates[start:]))
    assert math.isclose(rates[start], lr)


@pytest.mark.parametrize("epoch", [-1, 1000])
def test_no_such_epoch(epoch: int) -> None:
    with pytest.raises(ValueError, match="of 1000"):
        lr_at(DEFAULT, epoch)


def test_epochs_after_the_end_belong_to_the_last_phase() -> None:
    assert phase_at(DEFAULT, 1000) == phases(DEFAULT)[-1]
