"""Trainings of the demo: a short one to pre-train with, and a pair that differs in its name only.

A trainer is a recipe, and a recipe is a few values; what is not said is as in nnUNetTrainer. Another name gives another
folder of results, so that the two trainings of the finetuning dataset stay apart.

    nnUNetv2_train 902 3d_fullres_small 0 -tr scripts/demo_trainers.py:FromScratch
"""

from __future__ import annotations

from dataclasses import replace

from nnunet_pt.training.recipe import DEFAULT

PreTrained = replace(
    DEFAULT,
    num_epochs=20,
    iterations_per_epoch=40,
    validation_iterations_per_epoch=2,
    optimizer="adamw",  # SGD with nnU-Net's momentum needs thousands of steps
    initial_lr=5e-3,  # AdamW moves a weight by about this much a step: less, and new heads stay near where they began
    warmup_epochs=1,
    oversample_foreground=0.5,
    mirroring="none",  # the liver is on one side of the body, the spleen on the other
    save_every=2,
    seed=1,
)
FineTuned = replace(PreTrained, num_epochs=10, seed=2)
FromScratch = FineTuned
