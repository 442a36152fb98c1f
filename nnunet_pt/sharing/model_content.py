"""Whether unpacked files are what their names say, and hold nothing that could be executed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nnunet_pt.core.errors import ArchiveError, NnunetError
from nnunet_pt.core.files import read_json
from nnunet_pt.dataset.cases import shortened
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.plans.plans import Plans
from nnunet_pt.sharing import layout
from nnunet_pt.sharing.layout import Kind


def check_file(path: Path, kind: Kind) -> None:
    """Look into one file.

    Args:
        path: The file, under its own name.
        kind: What it is.

    Raises:
        NnunetError: If it is damaged, something else, or asks for code to be executed.
    """
    if kind is Kind.CHECKPOINT:
        from nnunet_pt.transfer.checkpoint import read_checkpoint

        read_checkpoint(path, lazy=True)
    elif kind is Kind.PICKLE:
        from nnunet_pt.evaluation.postprocessing_files import read_postprocessing

        read_postprocessing(path)
    elif path.suffix == ".json":
        read_json(path)


def check_model(folder: Path) -> None:
    """Plans, dataset description and checkpoints are there and belong together.

    Raises:
        NnunetError: If not.
    """
    configuration = layout.split_model_name(folder.name)[2]
    needed = [name for name in (layout.PLANS_FILE, layout.DATASET_FILE) if not (folder / name).is_file()]
    if not checkpoints(folder):
        needed.append("fold_X/checkpoint_final.pth")
    if needed:
        raise ArchiveError(f"The model {folder} is incomplete.", found=f"missing: {', '.join(needed)}")
    Plans.load(folder / layout.PLANS_FILE).configuration(configuration)
    DatasetDescription.load(folder / layout.DATASET_FILE)


def checkpoints(model: Path) -> dict[str, list[str]]:
    """Names of the checkpoints of a model folder, and the folds that have them."""
    found: dict[str, list[str]] = {}
    for path in sorted(model.glob("fold_*/*.pth")):
        found.setdefault(path.name, []).append(path.parent.name.removeprefix("fold_"))
    return found


def predict_commands(dataset: str, model: Path) -> list[str]:
    """The command lines that predict with a model, one for each name of checkpoints."""
    trainer, plans, configuration = layout.split_model_name(model.name)
    words = ["nnUNetv2_predict", f"-d {dataset}", "-i INPUT_FOLDER", "-o OUTPUT_FOLDER", f"-c {configuration}"]
    words += [f"-tr {trainer}"] * (trainer != "nnUNetTrainer") + [f"-p {plans}"] * (plans != "nnUNetPlans")
    if Plans.load(model / layout.PLANS_FILE).configuration(configuration).previous_stage is not None:
        words.append("-prev_stage_predictions FOLDER")
    found = checkpoints(model)
    names = ["checkpoint_final.pth"] if "checkpoint_final.pth" in found else list(found)
    chosen = [f" -chk {name}" * (name != "checkpoint_final.pth") for name in names]
    return [f"{' '.join(words)} -f {' '.join(found[name])}{choice}" for name, choice in zip(names, chosen, strict=True)]


def check_content(
    archive: Path, files: Sequence[tuple[Path, Kind]], models: Sequence[Path], stagings: Sequence[Path]
) -> None:
    """Look into all unpacked files.

    Args:
        archive: Where they come from, for the message.
        files: Path and kind of each file.
        models: The model folders.
        stagings: Folders whose names do not matter to the user.

    Raises:
        ArchiveError: With all findings.
    """
    findings = []
    checks = [partial(check_file, path, kind) for path, kind in files] + [partial(check_model, m) for m in models]
    for check in checks:
        try:
            check()
        except NnunetError as error:
            findings.append(error.problem + (f" Found: {error.found}" if error.found is not None else ""))
    if findings:
        text = shortened(findings)
        for staging in stagings:
            text = text.replace(f"{staging}/", "")
        raise ArchiveError(
            f"The archive {archive} was refused. Nothing of it was installed.",
            found=text,
            expected="complete models, made of data only",
            remedy="do not use this archive; ask its maker",
        )
