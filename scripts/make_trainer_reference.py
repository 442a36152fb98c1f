"""Write documentation/reference/trainers.md from the recipes, so that it says what the trainers do.

python scripts/make_trainer_reference.py
"""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from nnunet_pt.training.recipe import DEFAULT, TrainingRecipe
from nnunet_pt.training.recipes import RECIPES

TARGET = Path(__file__).resolve().parent.parent / "documentation" / "reference" / "trainers.md"

INTRODUCTION = """\
# Trainers

Written by `scripts/make_trainer_reference.py` from the recipes themselves. A trainer is `nnUNetTrainer` with some other
values; the names are those of nnU-Net, and of its fine-tuning fork for weights that the plans name (`Pretrained...`;
`PretrainedTrainer_adam__nomirroring` uses SGD, there as here). [Change a training](../how-to/change-a-training.md) and
[write your own trainer](../how-to/own-trainers.md) say how to use them.

| `-tr` | what differs from `nnUNetTrainer` |
|---|---|
"""

VALUES = """
## Values of a recipe

| value | default | meaning |
|---|---|---|
"""


def reference() -> str:
    """The whole page."""
    trainers = "".join(f"| `{name}` | {differences(RECIPES[name])} |\n" for name in RECIPES)
    meanings = explanations()
    values = "".join(
        f"| `{field.name}` | `{shown(getattr(DEFAULT, field.name))}` | {meanings[field.name]} |\n"
        for field in fields(TrainingRecipe)
    )
    return INTRODUCTION + trainers + VALUES + values


def differences(recipe: TrainingRecipe) -> str:
    """The values of a recipe that are not the default ones."""
    values = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name != "name"}
    changed = [f"`{n}={shown(v)}`" for n, v in values.items() if v != getattr(DEFAULT, n)]
    return ", ".join(changed) or "nothing"


def shown(value: Any) -> str:
    """A value as it is written in Python."""
    return f"{value:g}" if isinstance(value, float) else f'"{value}"' if isinstance(value, str) else str(value)


def explanations() -> dict[str, str]:
    """What each value means, from the documentation of the class."""
    text = inspect.cleandoc(TrainingRecipe.__doc__ or "").partition("Attributes:\n")[2].partition("\nRaises:")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", text, re.MULTILINE)
    return {name: references_as_words(" ".join(meaning.split())) for name, meaning in entries}


def references_as_words(text: str) -> str:
    """Names of tables in the code are replaced by what is in them."""
    module = inspect.getmodule(TrainingRecipe)

    def listed(match: re.Match[str]) -> str:
        return ", ".join(f'"{choice}"' for choice in getattr(module, match.group(1)))

    return re.sub(r":data:`(\w+)`", listed, text).replace("``", "`")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"written: {TARGET}")
