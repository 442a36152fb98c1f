"""Folders of folds as trainings leave them, made in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from nnunet_pt.core.files import write_json
from nnunet_pt.evaluation.metrics import EvaluationSettings, evaluate_folder
from nnunet_pt.preprocessing.store import save_case
from nnunet_pt.training.debug_file import write_debug_file
from nnunet_pt.training.history import EpochFigures, History
from nnunet_pt.training.recipe import DEFAULT
from nnunet_pt.training.text_log import FiguresFile, TextLog, end_lines, start_lines
from nnunet_pt.transfer.checkpoint import Checkpoint, write_checkpoint

DATASET = "Dataset007_Fruits"
CLASSES = ("flesh", "stone")
CASES = ("a.1", "b", "c", "d", "e", "f", "g", "h", "i")
SHAPE = (6, 20, 16)
RESAMPLING = {"force_separate_z": None, "order": 1, "order_z": 0, "is_seg": False}
DATASET_JSON = {
    "channel_names": {"0": "MRI", "1": "PET"},
    "labels": {"background": 0, "flesh": 1, "stone": 2},
    "numTraining": 10,
    "file_ending": ".nii.gz",
}


def plans(**configuration: Any) -> dict[str, Any]:
    """Content of plans.json with one configuration."""
    resampling = {
        key: value
        for what in ("data", "seg", "probabilities")
        for key, value in (
            (f"resampling_fn_{what}", "resample_data_or_seg_to_shape"),
            (f"resampling_fn_{what}_kwargs", RESAMPLING),
        )
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {"n_stages": 2, "features_per_stage": [8, 16]},
        "_kw_requires_import": [],
    }
    entries = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 16, 16],
        "median_image_size_in_voxels": [6.0, 20.0, 16.0],
        "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, False],
        **resampling,
        "architecture": architecture,
        "batch_dice": False,
        **configuration,
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.0, 1.0],
        "original_median_shape_after_transp": list(SHAPE),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": entries},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
    }


def history(epochs: int, *, gain: float = 0.1) -> History:
    """Figures that get better."""
    made = History()
    for epoch in range(epochs):
        dice = (min(0.1 + gain * epoch, 0.9), min(0.05 + gain * epoch, 0.9))
        mean = sum(dice) / 2
        made.append(
            EpochFigures(
                epoch=epoch, lr=0.01 * 0.9**epoch, train_loss=1 - gain * epoch, val_loss=1.1 - gain * epoch,
                dice_per_class=dice, mean_fg_dice=mean, ema_fg_dice=made.next_ema(mean), seconds=3.5,
                data_wait_share=0.02, peak_memory_gb=1.5, started=1.7e9 + 4 * epoch, ended=1.7e9 + 4 * epoch + 3.5,
            )
        )  # fmt: skip
    return made


def write_text_log(fold: Path, figures: Sequence[EpochFigures]) -> None:
    """The text log of these epochs."""
    log = TextLog(fold)
    for epoch in figures:
        log.write(*start_lines(epoch.epoch, epoch.lr))
        log.write(*end_lines(epoch, new_best=True))


def checkpoint(epochs: History, fold: int | str = 0) -> Checkpoint:
    """What nnU-Net's checkpoints hold, with a tiny network."""
    init_args = {"plans": plans(), "configuration": "3d_fullres", "fold": fold, "dataset_json": DATASET_JSON}
    return Checkpoint(
        network_weights={"weight": torch.ones(1)}, init_args={**init_args, "device": torch.device("cpu")},
        trainer_name="nnUNetTrainer", current_epoch=len(epochs), optimizer_state={}, logging=epochs.to_logging(),
        best_ema=epochs.best_ema,
    )  # fmt: skip


def make_fold(
    root: Path,
    *,
    fold: int | str = 0,
    epochs: int = 4,
    finished: bool = True,
    ours: bool = True,
    cases: Sequence[str] = CASES,
    shift: int = 1,
    trainer: str = "nnUNetTrainer",
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """A fold of ``root/results``; its data are in ``root/preprocessed``.

    Args:
        root: Where.
        fold: Its number.
        epochs: Finished epochs.
        finished: Whether there are checkpoint_final.pth and a validation.
        ours: Write what this package writes beyond nnU-Net.
        cases: The validated cases.
        shift: Voxels by which predictions are wrong; those of the first case by twice as much.
        trainer: Name of the trainer.
        recipe: Changes of the recipe.
    """
    model = root / "results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres"
    folder = model / f"fold_{fold}"
    folder.mkdir(parents=True)
    write_json(model / "plans.json", plans())
    write_json(model / "dataset.json", DATASET_JSON)
    figures = history(epochs)
    write_text_log(folder, list(figures))
    name = "checkpoint_final.pth" if finished else "checkpoint_latest.pth"
    write_checkpoint(folder / name, replace(checkpoint(figures, fold), trainer_name=trainer))
    chosen = replace(DEFAULT, name=trainer, **{"num_epochs": 4, **(recipe or {})})
    facts = {"precision": "fp32", "fold": fold, "configuration_name": "3d_fullres"}
    write_debug_file(folder, recipe=chosen, batch_size=2, device=torch.device("cpu"), facts=facts)
    if ours:
        FiguresFile(folder, CLASSES).start(figures)
        write_json(folder / "recipe.json", chosen.to_json())
    if finished:
        _validate(root / "preprocessed" / DATASET, folder / "validation", cases, shift)
    return folder


def _validate(dataset: Path, validation: Path, cases: Sequence[str], shift: int) -> None:
    references, data = dataset / "gt_segmentations", dataset / "nnUNetPlans_3d_fullres"
    for path in (references, validation, data):
        path.mkdir(parents=True, exist_ok=True)
    write_json(dataset / "dataset.json", DATASET_JSON)
    for case in cases:
        truth = segmentation(case)
        wrong = np.roll(truth, shift * (2 if case == cases[0] else 1), axis=2)
        write_image(references / f"{case}.nii.gz", truth)
        write_image(validation / f"{case}.nii.gz", wrong)
        image = np.stack([np.zeros(SHAPE), truth + 0.1 * np.random.default_rng(1).normal(size=SHAPE)])
        properties = {"shape_before_cropping": SHAPE, "bbox_used_for_cropping": [[0, n] for n in SHAPE]}
        save_case(data, case, image, truth[None], properties, (6, 16, 16))
    settings = EvaluationSettings(
        labels_or_regions=(1, 2), ignore_label=None, reader_name="SimpleITKIO", file_ending=".nii.gz"
    )
    found = evaluate_folder(references, validation, settings, cases=cases, num_processes=0, progress=False)
    found.save(validation / "summary.json")


def segmentation(case: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A fruit with a stone; every case is a little different, and the last one has no stone."""
    truth = np.zeros(SHAPE, np.uint8)
    place = 2 + ord(case[0]) % 5
    truth[1:5, place : place + 9, 4:12] = 1
    if case != CASES[-1]:
        truth[2:4, place + 3 : place + 6, 6:9] = 2
    return truth


def write_image(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write a file with slices of 2 mm."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(path))


def make_raw(root: Path, cases: Sequence[str]) -> Path:
    """The raw dataset of some cases in ``root/raw``: fruits and stones are as bright as their labels times 1000."""
    raw = root / "raw" / DATASET
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    write_json(raw / "dataset.json", DATASET_JSON)
    for case in cases:
        write_image(raw / "labelsTr" / f"{case}.nii.gz", segmentation(case))
        for channel in (0, 1):
            image = segmentation(case).astype(np.float32) * (1000 if channel == 0 else 0)
            write_image(raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz", image)
    return raw
