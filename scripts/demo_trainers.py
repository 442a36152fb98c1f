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
    num_epochs=25,
    iterations_per_epoch=40,
    validation_iterations_per_epoch=2,
    optimizer="adamw",  # SGD with nnU-Net's momentum needs thousands of steps
    initial_lr=5e-3,
    warmup_epochs=2,
    oversample_foreground=0.5,
    mirroring="none",  # the liver is on one side of the body, the spleen on the other
    save_every=2,
    seed=1,
)
# A smaller learning rate, so that what was learnt before is not forgotten. From scratch a larger one does not do much
# better: 4 cases are learnt by heart soon.
FineTuned = replace(PreTrained, num_epochs=10, initial_lr=2e-3, seed=2)
FromScratch = FineTuned
