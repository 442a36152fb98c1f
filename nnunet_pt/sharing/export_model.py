"""Packs trained models into a ZIP archive in nnU-Net's layout."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import ArchiveError, UsageError
from nnunet_pt.core.files import atomic_path, remove_leftovers, storage_errors, temporary_folder
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.dataset.cases import resolve_dataset_name, shortened
from nnunet_pt.plans.plans import Plans
from nnunet_pt.sharing import layout
from nnunet_pt.sharing.archive import PIECE, byte_progress, sha256, size_text

_log = get_logger(__name__)

STANDARD_CONFIGURATIONS = ("3d_lowres", "3d_fullres", "2d", "3d_cascade_fullres")
_PACKED_ENDINGS = (".gz", ".png", ".pdf", ".npz", ".tif", ".tiff")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to pack.

    Attributes:
        dataset: Number or name.
        output: The archive to write; one of that name is replaced when the new one is complete.
        configurations: Configurations.
        trainers: Names of trainers.
        plans_names: Names of plans; models of every combination of the three are packed.
        folds: Numbers, or "all".
        checkpoints: File names of checkpoints.
        strict: Whether everything asked for has to be there.
        with_predictions: Also pack the predicted validation cases.
        small: Leave out of checkpoints what only continuing a training needs.
        progress: Show progress.
    """

    dataset: int | str
    output: Path
    configurations: tuple[str, ...] = STANDARD_CONFIGURATIONS
    trainers: tuple[str, ...] = ("nnUNetTrainer",)
    plans_names: tuple[str, ...] = ("nnUNetPlans",)
    folds: tuple[int | str, ...] = (0, 1, 2, 3, 4)
    checkpoints: tuple[str, ...] = ("checkpoint_final.pth",)
    strict: bool = True
    with_predictions: bool = False
    small: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What was packed.

    Attributes:
        path: The archive.
        sha256: Its digest.
        num_bytes: Its size.
        models: Model and ensemble folders in it.
    """

    path: Path
    sha256: str
    num_bytes: int
    models: tuple[str, ...]

    def summary(self) -> str:
        """What was written and where."""
        lines = [f"{self.path}: {size_text(self.num_bytes)}", f"  SHA-256: {self.sha256}"]
        return "\n".join([*lines, *(f"  {name}" for name in self.models)])


@dataclass(slots=True)
class _Inventory:
    """What there is of what was asked for, and what is missing."""

    files: list[Path] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def export_model(request: ExportRequest, workspace: Workspace) -> ExportResult:
    """Write the archive; complete or not at all.

    Raises:
        ArchiveError: With everything that is missing, before anything is written.
        UsageError: If the output is a folder.
        StorageError: If a file cannot be read, or the archive not be written.
        CheckpointError: If a checkpoint to be reduced is damaged.
    """
    if request.output.is_dir():
        raise UsageError(f"{request.output} is a folder.", expected="the name of the archive", remedy="-o model.zip")
    results = workspace.results
    folder = results / resolve_dataset_name(request.dataset, workspace)
    inventory = _look(request, folder)
    _complain(request, folder, inventory)
    remove_leftovers(request.output.absolute().parent)
    with temporary_folder(request.output.absolute().parent) as scratch, atomic_path(request.output) as temporary:
        sources = {path.relative_to(results).as_posix(): path for path in inventory.files}
        if request.small:
            sources = dict(_reduced(sources, scratch))
        total = sum(path.stat().st_size for path in sources.values())
        with byte_progress(total, "Packing", enabled=request.progress) as count:
            _write(temporary, sources, count)
    with storage_errors(request.output), request.output.open("rb") as file:
        digest = sha256(file)
        return ExportResult(path=request.output, sha256=digest, num_bytes=file.tell(), models=tuple(inventory.models))


def _look(request: ExportRequest, folder: Path) -> _Inventory:
    inventory = _Inventory()
    for trainer, plans_name in product(request.trainers, request.plans_names):
        unknown = _not_planned(folder, trainer, plans_name, request.configurations)
        for configuration in request.configurations:
            model = folder / f"{trainer}__{plans_name}__{configuration}"
            if configuration in unknown:
                _log.info("%s: left out, because these plans have no such configuration.", model.name)
            else:
                _look_at_model(request, model, inventory)
    if inventory.models:
        for ensemble in sorted((folder / layout.ENSEMBLES_FOLDER).glob("ensemble___*")):
            members = layout.ensemble_members(ensemble.name)
            if members and set(members) <= set(inventory.models):
                inventory.files += _result_files(ensemble, request.with_predictions)
                inventory.models.append(f"{layout.ENSEMBLES_FOLDER}/{ensemble.name}")
        inventory.files += _existing(folder, layout.INFORMATION_FILES)
    return inventory


def _not_planned(folder: Path, trainer: str, plans_name: str, configurations: Sequence[str]) -> set[str]:
    """Those of nnU-Net's usual configurations that cannot have been trained, because they were not planned."""
    for configuration in configurations:
        path = folder / f"{trainer}__{plans_name}__{configuration}" / layout.PLANS_FILE
        if path.is_file():
            planned = Plans.load(path).configuration_names
            return {c for c in configurations if c in STANDARD_CONFIGURATIONS and c not in planned}
    return set()


def _look_at_model(request: ExportRequest, model: Path, inventory: _Inventory) -> None:
    """Note a model's files, fold by fold; a fold without any of the checkpoints is left out."""
    if not model.is_dir():
        inventory.missing.append(f"{model.name}: not trained, there is no such folder")
        return
    needed = [name for name in (layout.PLANS_FILE, layout.DATASET_FILE) if not (model / name).is_file()]
    if needed:
        inventory.missing.append(f"{model.name}: {', '.join(needed)}")
        return
    files: list[Path] = []
    folds: list[str] = []
    for fold in request.folds:
        fold_folder = model / f"fold_{fold}"
        checkpoints = [fold_folder / name for name in request.checkpoints]
        there = [path for path in checkpoints if path.is_file()]
        inventory.missing += [f"{model.name}/fold_{fold}/{path.name}" for path in checkpoints if path not in there]
        if there:
            folds.append(str(fold))
            files += _existing(fold_folder, layout.REPORT_FILES[:1]) + there
            files += _existing(fold_folder, layout.REPORT_FILES[1:])
            files += _validation_files(fold_folder / layout.VALIDATION_FOLDER, request.with_predictions)
    if files:
        crossvalidation = model / f"{layout.CROSSVALIDATION_PREFIX}{'_'.join(sorted(folds))}"
        files += _result_files(crossvalidation, request.with_predictions)
        inventory.files += files + _existing(model, layout.MODEL_FILES)
        inventory.models.append(model.name)


def _existing(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _validation_files(folder: Path, with_predictions: bool) -> list[Path]:
    return _predictions(folder) if with_predictions else _existing(folder, layout.SUMMARY_FILES[:1])


def _result_files(folder: Path, with_predictions: bool) -> list[Path]:
    return _predictions(folder) if with_predictions else _existing(folder, layout.SUMMARY_FILES)


def _predictions(folder: Path) -> list[Path]:
    """Segmentations and what describes them; probabilities and case properties stay where they are."""
    if not folder.is_dir():
        return []
    with storage_errors(folder):
        paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [p for p in paths if p.suffix not in (".npz", ".pkl") or p.name == layout.POSTPROCESSING_PICKLE]


def _complain(request: ExportRequest, folder: Path, inventory: _Inventory) -> None:
    if not inventory.missing and inventory.models:
        return
    if request.strict or not inventory.models:
        raise ArchiveError(
            f"Not all that is asked for is in {folder}. Nothing was written."
            if inventory.models
            else f"Nothing that is asked for is in {folder}.",
            found="missing:\n" + shortened(inventory.missing),
            expected=f"what was trained there: {_trained(folder)}",
            remedy="choose with -c -f -tr -p -chk"
            + (", or leave out what is missing: --not_strict" if inventory.models else ""),
        )
    _log.warning("Left out, because it is missing:\n%s", shortened(inventory.missing))


def _trained(folder: Path) -> str:
    folds = [
        f"{model.name} (fold {', '.join(path.name.removeprefix('fold_') for path in trained)})"
        for model in sorted(folder.glob("*__*__*"))
        if (trained := sorted(path for path in model.glob("fold_*") if any(path.glob("*.pth"))))
    ]
    return "; ".join(folds) or "nothing"


def _reduced(sources: Mapping[str, Path], scratch: Path) -> Iterator[tuple[str, Path]]:
    """Replace checkpoints by what prediction and fine-tuning need of them."""
    for name, path in sources.items():
        if path.suffix != ".pth":
            yield name, path
            continue
        small = scratch / name.replace("/", "-")
        reduce_checkpoint(path, small)
        yield name, small


def reduce_checkpoint(source: Path, target: Path) -> None:
    """Write a checkpoint without the states of optimiser, gradient scaler and everything else that training keeps.

    nnU-Net's predictor and ``-pretrained_weights`` read it; a training cannot be continued from it.

    Args:
        source: A checkpoint of nnU-Net or of this package.
        target: The smaller one; it gets the time of the source, so that archives made twice are equal.

    Raises:
        CheckpointError: If the source is damaged.
        TrainingError: If its weights are not finite.
        StorageError: If it cannot be written.
    """
    import os

    from nnunet_pt.transfer.checkpoint import read_checkpoint, write_checkpoint

    checkpoint = read_checkpoint(source)
    checkpoint.optimizer_state = None
    checkpoint.grad_scaler_state = None
    checkpoint.extra = {}
    write_checkpoint(target, checkpoint)
    os.utime(target, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))


def _write(target: Path, sources: Mapping[str, Path], count: Callable[[int], None]) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for name, path in sources.items():
            info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_STORED if name.endswith(_PACKED_ENDINGS) else zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(info, "w") as entry:
                while piece := source.read(PIECE):
                    entry.write(piece)
                    count(len(piece))
