"""Finds the folds and checkpoints in a model folder, and says what is there if something is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nnunet_pt.core.errors import PredictionError
from nnunet_pt.dataset.description import FILE_NAME as DATASET_FILE

PLANS_FILE: Final = "plans.json"
FINAL_CHECKPOINT: Final = "checkpoint_final.pth"
FOLD_PREFIX: Final = "fold_"


def available_folds(folder: Path, checkpoint_name: str = FINAL_CHECKPOINT) -> tuple[str, ...]:
    """Names of the folds that have a checkpoint of that name: numbers in order, then "all"."""
    return tuple(name for name, files in checkpoints_of_folds(folder).items() if checkpoint_name in files)


def checkpoints_of_folds(folder: Path) -> dict[str, list[str]]:
    """Names of the checkpoints of every fold that there is a folder of; numbers in order, then "all"."""
    numbers = {int(p.name.removeprefix(FOLD_PREFIX)): p for p in folder.glob(f"{FOLD_PREFIX}[0-9]*") if _is_numbered(p)}
    folds = {str(n): numbers[n] for n in sorted(numbers)} | {"all": folder / f"{FOLD_PREFIX}all"}
    files = {name: sorted(p.name for p in path.glob("checkpoint_*.pth")) for name, path in folds.items()}
    return {name: there for name, there in files.items() if folds[name].is_dir()}


def _is_numbered(path: Path) -> bool:
    number = path.name.removeprefix(FOLD_PREFIX)
    return number.isdecimal() and path.name == f"{FOLD_PREFIX}{int(number)}"


def require_model_folder(folder: Path) -> None:
    """Refuse a folder that is not a whole model.

    Raises:
        PredictionError: With everything that is missing.
    """
    if not folder.is_dir():
        there = sorted(p.name for p in folder.parent.glob("*__*__*") if p.is_dir())
        raise PredictionError(
            f"There is no model folder {folder}",
            found=f"these models: {', '.join(there)}" if there else None,
            remedy="choose one of them" if there else "check the path, or train the model first (nnUNetv2_train)",
        )
    missing = [name for name in (DATASET_FILE, PLANS_FILE) if not (folder / name).is_file()]
    if not checkpoints_of_folds(folder):
        missing.append(f"{FOLD_PREFIX}0, {FOLD_PREFIX}1... or {FOLD_PREFIX}all")
    if not missing:
        return
    remedy = "copy the whole folder from where the model was trained"
    if folder.name.startswith(FOLD_PREFIX) and (folder.parent / PLANS_FILE).is_file():
        remedy = (
            f"give the folder above it, {folder.parent}, and the fold with -f {folder.name.removeprefix(FOLD_PREFIX)}"
        )
    elif models := sorted(p.parent.name for p in folder.glob(f"*/{PLANS_FILE}")):
        remedy = f"choose one of the models in it: {', '.join(models)}"
    raise PredictionError(
        f"The model folder {folder} is incomplete.", found=f"missing: {', '.join(missing)}", remedy=remedy
    )


def chosen_folds(folder: Path, folds: Sequence[int | str] | None, checkpoint_name: str) -> tuple[str, ...]:
    """The folds to predict with.

    Args:
        folder: The model's folder.
        folds: Numbers of folds, or "all"; None for every numbered fold that has the checkpoint, and for ``fold_all``
            if there are none.
        checkpoint_name: Name of the file in the folders of the folds.

    Returns:
        Their names, at least one; each has the checkpoint.

    Raises:
        PredictionError: If one of them is missing, with all that are there.
    """
    usable = available_folds(folder, checkpoint_name)
    if folds is None:
        names = tuple(name for name in usable if name != "all") or usable
    else:
        names = tuple(dict.fromkeys(str(fold).removeprefix(FOLD_PREFIX) for fold in folds))
    if names and set(names) <= set(usable):
        return names
    there = checkpoints_of_folds(folder)
    missing = [name for name in names if name not in usable]
    remedy = "train the missing folds, or choose others with -f"
    if usable:
        chosen = [name for name in usable if name != "all"] or ["all"]
        remedy = f"predict with what is there: -f {' '.join(chosen)}"
    elif files := sorted({file for name, files in there.items() if name in (names or there) for file in files}):
        remedy = f"choose another checkpoint with -chk: {', '.join(files)}"
    raise PredictionError(
        f"The model {folder} has no {checkpoint_name} of fold {', '.join(missing)}."
        if missing
        else f"No fold of the model {folder} has a {checkpoint_name}.",
        found="; ".join(f"{FOLD_PREFIX}{name}: {', '.join(files) or 'empty'}" for name, files in there.items()),
        remedy=remedy,
    )
