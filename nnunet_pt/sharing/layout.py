"""What model archives hold: nnU-Net's results folder, file by file.

Exports choose files by these names; installs take nothing that has another name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from enum import Enum

PLANS_FILE = "plans.json"
DATASET_FILE = "dataset.json"
MODEL_FILES = (PLANS_FILE, "dataset_fingerprint.json", DATASET_FILE, "orientation.json")
REPORT_FILES = ("debug.json", "progress.png", "network_architecture.pdf", "recipe.json")
SUMMARY_FILES = ("summary.json", "postprocessing.pkl", "postprocessing.json")
INFORMATION_FILES = ("inference_information.json", "inference_instructions.txt")
POSTPROCESSING_PICKLE = "postprocessing.pkl"
VALIDATION_FOLDER = "validation"
CROSSVALIDATION_PREFIX = "crossval_results_folds_"
ENSEMBLES_FOLDER = "ensembles"
ENSEMBLE_SEPARATOR = "___"

MAX_NAME_BYTES = 255
_FORBIDDEN = frozenset('\\<>:"|?*')
_IMAGE = r"\.(nii|nii\.gz|nrrd|mha|gipl|png|bmp|tif|tiff)"
_ABOUT = r"(README|LICEN[CS]E|CITATION)(\.(md|txt|cff|bib|rst))?"
_RESULT = rf"[^/]+{_IMAGE}|[^/]+\.json"  # those of TIFF images are described in JSON files beside them
_MODEL = r"(?:(?!__)[^/])+__(?:(?!__)[^/])+__(?:(?!__)[^/])+"
_DATASET = r"Dataset[0-9]{3}(?![0-9])[^/]*"
_FOLD = r"fold_(?:[0-9]+|all)"
_RESULTS_FOLDER = rf"(?:{_MODEL}/(?:{_FOLD}/validation|crossval_results_folds_[^/]+)|ensembles/ensemble___[^/]+)"


class Kind(Enum):
    """What to do with a file of an archive."""

    CHECKPOINT = "checkpoint"
    PICKLE = "pickle"
    OTHER = "other"
    LEFT_OUT = "left out"  # nnU-Net's, but of no use here, or not safe to read
    JUNK = "junk"  # of the computer that made the archive
    UNKNOWN = "unknown"


_KINDS: tuple[tuple[Kind, str], ...] = (
    (Kind.JUNK, r"(.*/)?(__MACOSX(/.*)?|\.DS_Store|\._[^/]*|Thumbs\.db|desktop\.ini)"),
    (Kind.JUNK, _ABOUT),  # at the top it would describe all models there are
    (Kind.OTHER, rf"{_DATASET}/(inference_information\.(json|txt)|inference_instructions\.txt|{_ABOUT})"),
    (Kind.OTHER, rf"{_DATASET}/{_MODEL}/([^/]+\.json|{_ABOUT})"),
    (Kind.CHECKPOINT, rf"{_DATASET}/{_MODEL}/{_FOLD}/[^/]+\.pth"),
    (
        Kind.OTHER,
        rf"{_DATASET}/{_MODEL}/{_FOLD}/"
        r"([^/]+\.json|progress\.(png|jsonl)|network_architecture\.pdf|training_log_[^/]*\.txt)",
    ),
    *(
        (kind, rf"{_DATASET}/{_RESULTS_FOLDER}/{name}")
        for kind, name in (
            (Kind.PICKLE, r"postprocessing\.pkl"),
            (Kind.OTHER, rf"(postprocessed/)?({_RESULT})"),
            (Kind.LEFT_OUT, r"(postprocessed/)?[^/]+\.(npz|pkl)"),
        )
    ),
)
_PATTERNS = tuple((kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _KINDS)


def kind_of(name: str) -> Kind:
    """What a file of an archive is, by its path within the archive."""
    return next((kind for kind, pattern in _PATTERNS if pattern.fullmatch(name)), Kind.UNKNOWN)


def unsafe_reason(name: str) -> str | None:
    """Why a path within an archive must not be written; ``None`` if it may.

    Args:
        name: The path, with slashes; that of a folder ends with one.
    """
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        return "an absolute path"
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        return "leads out of the folder"
    if any(part in ("", ".") for part in parts):
        return "an empty part in the path"
    if _FORBIDDEN & set(name) or any(unicodedata.category(character).startswith("C") for character in name):
        return "characters that have no place in file names"
    if any(part != part.strip() or part.endswith(".") for part in parts):
        return "a space or a full stop where other systems remove it"
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return "a name that is too long"
    return None


def same_file_key(name: str) -> str:
    """Equal for names that are one file on some file systems (upper and lower case, composed characters)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def unit_of(name: str) -> str:
    """What a file belongs to that is installed as a whole: a model, an ensemble, or the file itself.

    Args:
        name: A path of a known kind: DATASET/MODEL/..., DATASET/ensembles/ENSEMBLE/... or DATASET/FILE.
    """
    parts = name.split("/")
    return "/".join(parts[: 3 if parts[1] == ENSEMBLES_FOLDER else 2])


def split_model_name(name: str) -> tuple[str, str, str]:
    """Trainer, plans and configuration of a model folder."""
    trainer, plans, configuration = name.split("__")
    return trainer, plans, configuration


def ensemble_members(name: str) -> Sequence[str]:
    """Model folders of ``ensemble___MODEL___MODEL___FOLDS``; empty if the name has another form."""
    return name.split(ENSEMBLE_SEPARATOR)[1:-1]
