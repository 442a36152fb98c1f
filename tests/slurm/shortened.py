"""Runs one of our commands with networks and trainings that are over in a moment.

python shortened.py nnunet_pt.cli.train 4 2d 0
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from typing import Any


def shorten(recipe: Any) -> Any:
    """The same training with three updates."""
    return replace(recipe, num_epochs=1, iterations_per_epoch=3, validation_iterations_per_epoch=1, precision="fp32")


def main() -> int:
    """Command line."""
    module = sys.argv.pop(1)
    if module.endswith(".train"):
        run = importlib.import_module("nnunet_pt.training.run")
        with_flags = run.with_flags
        run.with_flags = lambda *recipe_and_request: shorten(with_flags(*recipe_and_request))
    if module.endswith(".plan_experiment"):
        importlib.import_module("nnunet_pt.planning.experiment").BASE_FEATURES = 8
    return int(importlib.import_module(module).main())


if __name__ == "__main__":
    raise SystemExit(main())
