"""Trainings of the demo: short ones, and a pair that differs in its name only.

A trainer is a recipe, and a recipe is a few values; what is not said is as in nnUNetTrainer. Another name gives another
folder of results, so that the two trainings of the finetuning dataset stay apart.

    nnUNetv2_train 902 3d_fullres_small 0 -tr scripts/demo_trainers.py:FromScratch
"""

from __future__ import annotations

from dataclasses import replace

from nnunet_pt.training.recipe import DEFAULT

PreTrained = replace(
    DEFAULT,
    num_epochs=6,
    iterations_per_epoch=25,
    validation_iterations_per_epoch=5,
    optimizer="adamw",  # gets somewhere within a hundred steps
    initial_lr=3e-3,
    oversample_foreground=0.66,
    seed=1,
)
FineTuned = replace(PreTrained, num_epochs=4, iterations_per_epoch=20, seed=2)
FromScratch = FineTuned
