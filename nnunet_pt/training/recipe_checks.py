"""What is wrong with a recipe: types, ranges, names, and values that do not go together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_pt.training.recipe import TrainingRecipe

OPTIMIZER_NAMES = ("sgd", "adamw", "adam", "adan")
SCHEDULE_NAMES = ("poly", "cosine", "constant")
LOSS_NAMES = ("default", "dice_ce_no_smooth", "ce", "dice", "topk10", "topk10_smoothed", "dice_topk10")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZER_NAMES,
    "schedule": SCHEDULE_NAMES,
    "loss": LOSS_NAMES,
    "augmentation": ("default", "da5", "none"),
    "mirroring": ("all", "first", "none"),
    "image_interpolation": ("linear", "nearest"),
    "segmentation_interpolation": ("linear", "nearest"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
_AT_LEAST: Mapping[str, int] = {
    "num_epochs": 1,
    "iterations_per_epoch": 1,
    "validation_iterations_per_epoch": 0,
    "warmup_epochs": 0,
    "head_epochs": 0,
    "save_every": 1,
    "batch_size": 1,
    "patience": 1,
    "seed": 0,
    "freeze_epochs": 1,
}
_POSITIVE = ("initial_lr", "lr_from_scratch", "gradient_clip", "head_lr_factor")
_SHARES = ("oversample_foreground", "cascade_label_probability")


def problems_of(recipe: TrainingRecipe) -> Iterator[str]:
    """Every value of a recipe that cannot be used, and what was expected."""
    values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    for field in fields(recipe):
        problem = _type_problem(values[field.name], str(field.type))
        if problem:
            yield f"{field.name} is {values[field.name]!r}, expected {problem}"
            values.pop(field.name)
    name = values.get("name", "x")
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+", name) or name.strip(".") == "":
        yield f"name is {name!r}, expected letters, digits, '_', '-' and '.', since a folder gets this name"
    for key, choices in _CHOICES.items():
        if key in values and values[key] not in choices:
            yield f"{key} is {values[key]!r}, expected one of {', '.join(choices)}"
    for key, minimum in _AT_LEAST.items():
        if values.get(key) is not None and values[key] < minimum:
            yield f"{key} is {values[key]}, expected at least {minimum}"
    for key in _POSITIVE:
        if values.get(key) is not None and not values[key] > 0:
            yield f"{key} is {values[key]}, expected more than 0"
    for key in _SHARES:
        if values.get(key) is not None and not 0 <= values[key] <= 1:
            yield f"{key} is {values[key]}, expected a number from 0 to 1"
    yield from _joint_problems(values)


def _joint_problems(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("weight_decay", 0) < 0:
        yield f"weight_decay is {values['weight_decay']}, expected at least 0"
    if not 0 <= values.get("momentum", 0) < 1 or not all(0 <= beta < 1 for beta in values.get("betas") or ()):
        yield f"momentum is {values.get('momentum')} and betas are {values.get('betas')}, expected numbers below 1"
    number = {"adan": 3}.get(values.get("optimizer", ""), 2)
    if values.get("betas") is not None and len(values["betas"]) != number:
        yield f"betas are {values['betas']}, expected {number} numbers for {values['optimizer']}"
    patch = values.get("patch_size")
    if patch is not None and (len(patch) not in (2, 3) or any(size < 1 for size in patch)):
        yield f"patch_size is {patch}, expected two or three numbers of voxels"
    epochs, before = values.get("num_epochs"), values.get("warmup_epochs", 0) + values.get("head_epochs", 0)
    if epochs is not None and before > epochs:
        yield f"{before} epochs of warm-up do not fit into {epochs} (give fewer with -warmup_epochs)"
    if values.get("freeze_epochs") is not None and not values.get("freeze", True):
        yield "freeze_epochs without freeze: say what is frozen (-freeze)"
    for text in values.get("lr_factors", ()):
        if lr_factor_of(text) is None:
            yield f"{text!r} in lr_factors is no factor, expected a layer and a number above 0: encoder=0.1"
    if values.get("synthetic_batch") and not values.get("benchmark"):
        yield "synthetic_batch without benchmark would train on noise"


def _type_problem(value: object, annotation: str) -> str | None:
    """What a value should have been, or None if its type is right."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    if value is None:
        return None if "None" in kinds else "a value"
    kind = kinds[0]
    if kind == "bool":
        return None if isinstance(value, bool) else "true or false"
    if kind == "int":
        return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if kind == "float":
        return None if _is_number(value) else "a finite number"
    if kind.startswith("tuple"):
        of_texts, whole = "str" in kind, "int" in kind
        if of_texts:
            return None if isinstance(value, tuple) and all(isinstance(v, str) for v in value) else "texts"
        fits = isinstance(value, tuple) and all(isinstance(v, int) if whole else _is_number(v) for v in value)
        return None if fits else "numbers"
    return None if isinstance(value, str) else "a text"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def lr_factor_of(text: str) -> tuple[str, float] | None:
    """Layers and factor in a text like ``encoder=0.1``; None if it is something else."""
    pattern, _, number = text.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        return None
    return (pattern, factor) if pattern and 0 < factor < math.inf else None
