"""Where a pre-trained checkpoint is: what the user names, and what plans remember of one that was moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.core.settings import Settings
from nnunet_pt.plans.pretrain_info import PretrainInfo
from nnunet_pt.transfer.hub import CHECKPOINT_FILE, fetch_checkpoint
from nnunet_pt.transfer.hub_reference import CHECKPOINT_ENDINGS, parse_reference
from nnunet_pt.transfer.source import sha256_of

_NAMES: Final = (CHECKPOINT_FILE, "checkpoint_best.pth", "checkpoint_latest.pth")


def checkpoint_file(
    reference: str, settings: Settings, *, check_plan: Callable[[Path], None] | None = None, progress: bool = True
) -> Path:
    """The file that a user names by a path, a folder, or a repository of the Hugging Face hub.

    Args:
        reference: What the user wrote.
        settings: Where downloads go.
        check_plan: See :func:`nnunet_pt.transfer.hub.fetch_checkpoint`.
        progress: Show progress of a download.

    Returns:
        Absolute path of an existing file.

    Raises:
        UsageError: If it is the address of something else.
        CheckpointError: If there is no such file, or it cannot be downloaded.
    """
    repository = parse_reference(reference)
    if repository is not None:
        return fetch_checkpoint(repository, settings, check_plan=check_plan, progress=progress).absolute()
    path = Path(reference).expanduser().absolute()
    if path.is_dir():
        inside = [folder / name for folder in (path, path / "fold_all") for name in _NAMES]
        path = next((p for p in inside if p.is_file()), path)
    if not path.is_file():
        raise CheckpointError(
            f"There is no checkpoint {path}.",
            found=f"a folder without {CHECKPOINT_FILE}" if path.is_dir() else "no such file",
            expected="a file; or https://huggingface.co/OWNER/REPO or OWNER/REPO on the Hugging Face hub",
            remedy="check the path",
        )
    return path


def find_checkpoint(info: PretrainInfo, settings: Settings, overwrite: Path | None = None) -> Path:
    """The checkpoint that plans were made for, also if it was moved.

    Looked for, in this order: the path that the user gives instead, the path in the plans, and in
    ``nnssl_pretrained_models`` a file with the recorded checksum. Without a recorded checksum (plans of nnU-Net) a file
    counts if its name and that of its folder are the recorded ones.

    Args:
        info: What the plans say.
        settings: Where downloaded checkpoints are.
        overwrite: The user's path (``-overwrite_ckpt_path``); it counts whatever it holds.

    Raises:
        CheckpointError: If it is nowhere, with the places that were searched.
    """
    if overwrite is not None:
        return checkpoint_file(str(overwrite), settings)
    recorded = None if info.checkpoint_path is None else Path(info.checkpoint_path).expanduser()
    searched = []
    if recorded is not None:
        if recorded.is_file() and _is_it(recorded, info):
            return recorded.absolute()
        searched.append(f"{recorded} (in the plans{', but it is another file now' if recorded.is_file() else ''})")
    folder = settings.pretrained_models
    if folder is None:
        searched.append("nnssl_pretrained_models is not set")
    else:
        for path in _candidates(folder, recorded):
            if _is_it(path, info) if info.checkpoint_sha256 else _same_names(path, recorded):
                return path.absolute()
        searched.append(f"{folder} (nnssl_pretrained_models)")
    raise CheckpointError(
        f"The pre-trained checkpoint {info.checkpoint_name or ''} is not where it was.".replace("  ", " "),
        found="not in " + "\n            not in ".join(searched),
        expected=f"a file with the SHA-256 digest {info.checkpoint_sha256}" if info.checkpoint_sha256 else None,
        remedy="say where it is now with -overwrite_ckpt_path FILE, or put it into the folder nnssl_pretrained_models",
    )


def _is_it(path: Path, info: PretrainInfo) -> bool:
    return info.checkpoint_sha256 is None or sha256_of(path) == info.checkpoint_sha256


def _same_names(path: Path, recorded: Path | None) -> bool:
    return recorded is not None and (path.name, path.parent.name) == (recorded.name, recorded.parent.name)


def _candidates(folder: Path, recorded: Path | None) -> list[Path]:
    """Checkpoints in a folder, those with the recorded names first, since reading large files takes time."""
    files = [p for p in folder.rglob("*") if p.suffix in CHECKPOINT_ENDINGS and p.is_file()]
    return sorted(files, key=lambda p: (not _same_names(p, recorded), recorded is None or p.name != recorded.name, p))
