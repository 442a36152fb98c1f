"""A recipe checks itself, survives JSON, and takes values from the command line."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.training.recipe import DEFAULT, LOSS_NAMES, TrainingRecipe, with_overrides
from nnunet_pt.training.recipes import RECIPES

recipes = st.builds(
    replace,
    st.sampled_from([RECIPES[name] for name in RECIPES]),
    initial_lr=st.floats(1e-6, 1),
    num_epochs=st.integers(100, 5000),
    seed=st.none() | st.integers(0, 2**40),
    patience=st.none() | st.integers(1, 50),
    gradient_clip=st.none() | st.floats(0.1, 20),
    patch_size=st.none() | st.tuples(st.integers(1, 300), st.integers(1, 300)),
    deterministic=st.booleans(),
    loss=st.sampled_from(LOSS_NAMES),
)


@given(recipe=recipes)
def test_json_and_back(recipe: TrainingRecipe) -> None:
    assert TrainingRecipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_missing_values_take_their_defaults() -> None:
    assert TrainingRecipe.from_json({"name": "old", "num_epochs": 3}) == replace(DEFAULT, name="old", num_epochs=3)


def test_unknown_values_are_named() -> None:
    with pytest.raises(TrainingError, match=r"'mine' has values that are not known(.|\n)*epochs, learning_rate"):
        TrainingRecipe.from_json({"name": "mine", "learning_rate": 1, "epochs": 3})


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"num_epochs": 0}, "num_epochs is 0, expected at least 1"),
        ({"num_epochs": 2.5}, "num_epochs is 2.5, expected a whole number"),
        ({"num_epochs": True}, "num_epochs is True, expected a whole number"),
        ({"num_epochs": None}, "num_epochs is None, expected a value"),
        ({"initial_lr": 0}, "initial_lr is 0, expected more than 0"),
        ({"initial_lr": float("nan")}, "initial_lr is nan, expected a finite number"),
        ({"initial_lr": "0.1"}, "initial_lr is '0.1', expected a finite number"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0, expected at least 0"),
        ({"momentum": 1.0}, "expected numbers below 1"),
        ({"betas": (0.9,)}, "expected 2 numbers"),
        ({"optimizer": "adan", "betas": (0.9, 0.8)}, "expected 3 numbers for adan"),
        ({"optimizer": "lion"}, "optimizer is 'lion', expected one of sgd, adamw, adam, adan"),
        ({"loss": "focal"}, "loss is 'focal', expected one of default"),
        ({"mirroring": "last"}, "mirroring is 'last'"),
        ({"deterministic": 1}, "deterministic is 1, expected true or false"),
        ({"oversample_foreground": 1.2}, "oversample_foreground is 1.2, expected a number from 0 to 1"),
        ({"patch_size": (1, 2, 3, 4)}, "expected two or three numbers"),
        ({"patch_size": [96, 96]}, "patch_size is"),
        ({"patch_size": (96.5, 96)}, "patch_size is"),
        ({"name": "a/b"}, "a folder gets this name"),
        ({"name": ""}, "a folder gets this name"),
        ({"name": ".."}, "a folder gets this name"),
        ({"num_epochs": 5, "warmup_epochs": 6}, "6 epochs of warm-up do not fit into 5"),
        ({"num_epochs": 5, "warmup_epochs": 3, "head_epochs": 3}, "6 epochs of warm-up do not fit into 5"),
        ({"synthetic_batch": True}, "would train on noise"),
    ],
)
def test_values_that_cannot_be_used(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TrainingError) as caught:
        replace(DEFAULT, **values)
    assert complaint in str(caught.value)


def test_all_problems_at_once() -> None:
    with pytest.raises(TrainingError) as caught:
        TrainingRecipe(num_epochs=0, loss="focal", seed=-1, patience=0)
    for name in ("num_epochs", "loss", "seed", "patience"):
        assert f"{name} is " in str(caught.value)


def test_values_of_the_wrong_type_never_crash_the_check() -> None:
    for field in fields(TrainingRecipe):
        for value in (None, "x", 1.5, (1, "a"), {}, -3):
            try:
                replace(DEFAULT, **{field.name: value})
            except TrainingError as error:
                assert field.name in str(error)


def test_overrides_keep_what_was_not_given() -> None:
    recipe = RECIPES["nnUNetTrainer_warmup"]
    assert with_overrides(recipe) == recipe
    changed = with_overrides(
        recipe,
        epochs=60,
        lr=0.1,
        iterations=7,
        warmup_epochs=0,
        patience=9,
        seed=0,
        deterministic=True,
        precision="fp32",
    )
    assert changed == replace(
        recipe,
        num_epochs=60,
        initial_lr=0.1,
        iterations_per_epoch=7,
        warmup_epochs=0,
        patience=9,
        seed=0,
        deterministic=True,
        precision="fp32",
    )
    assert changed.name == "nnUNetTrainer_warmup"


def test_overrides_that_do_not_go_together() -> None:
    with pytest.raises(TrainingError, match="give fewer with -warmup_epochs"):
        with_overrides(RECIPES["nnUNetTrainer_warmup"], epochs=10)


@pytest.mark.parametrize(
    ("mirroring", "axes_2d", "axes_3d"),
    [("all", (0, 1), (0, 1, 2)), ("first", (0,), (0, 1)), ("none", None, None)],
)
def test_mirror_axes(mirroring: Any, axes_2d: tuple[int, ...] | None, axes_3d: tuple[int, ...] | None) -> None:
    recipe = replace(DEFAULT, mirroring=mirroring)
    assert recipe.mirror_axes(2) == axes_2d
    assert recipe.mirror_axes(3) == axes_3d


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [(2, 0.5), (4, 0.25), (1, 0.0), (3, 1 / 3), (49, 16 / 49)],
)
def test_probability_that_equals_the_fixed_rule(batch_size: int, expected: float) -> None:
    """The last samples of a batch, from round(0.67 x batch size) on, must contain foreground."""
    assert RECIPES["nnUNetTrainer_probabilisticOversampling"].foreground_share(batch_size) == pytest.approx(expected)
    assert RECIPES["nnUNetTrainer_probabilisticOversampling_010"].foreground_share(batch_size) == 0.1
    assert DEFAULT.foreground_share(batch_size) == 0.33
