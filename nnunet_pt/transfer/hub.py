"""Checkpoints from the Hugging Face hub, where nnssl's are published.

A repository that can be used has an ``adaptation_plan.json`` and, unless the user names another file, a
``checkpoint_final.pth``. What was downloaded once is used without asking the network again; a download that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Final

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import CheckpointError, NnunetError
from nnunet_pt.core.files import make_folder, storage_error
from nnunet_pt.core.settings import Settings
from nnunet_pt.transfer.adaptation_plan import FILE_NAME as PLAN_FILE
from nnunet_pt.transfer.adaptation_plan import load as load_plan
from nnunet_pt.transfer.hub_reference import HubRepository
from nnunet_pt.transfer.source import sha256_of

CHECKPOINT_FILE: Final = "checkpoint_final.pth"
COUNTED_FILE: Final = "config.json"  # the hub counts a download by it
INSTALL: Final = "pip install 'nnunet-pt[hub]'"

_log = get_logger(__name__)


def fetch_checkpoint(
    repository: HubRepository,
    settings: Settings,
    *,
    check_plan: Callable[[Path], None] | None = None,
    progress: bool = True,
) -> Path:
    """Download a checkpoint with its adaptation plan, unless it is there already.

    The plan comes first, so that nothing large is downloaded from a repository that cannot be used.

    Args:
        repository: What to fetch.
        settings: ``pretrained_models`` says where to; without it, the hub's own cache.
        check_plan: Looks at the plan and raises if it cannot be used.
        progress: Show progress.

    Returns:
        The checkpoint's file.

    Raises:
        CheckpointError: If it cannot be had: no such repository, no access, no network, no plan, package missing.
        StorageError: If it cannot be written.
    """
    folder = None
    if settings.pretrained_models is not None:
        folder = settings.pretrained_models / repository.folder_name
    return _Fetch(repository, folder, progress=progress).run(check_plan or _check_plan)


def _check_plan(path: Path) -> None:
    load_plan(path).check_architecture()


class _Fetch:
    """One repository on its way.

    Args:
        repository: What to fetch.
        folder: Where to; None for the hub's cache.
        progress: Show progress.
    """

    def __init__(self, repository: HubRepository, folder: Path | None, *, progress: bool) -> None:
        self._repository = repository
        self._folder = folder
        self._hub = _package(repository)
        if not progress:
            self._hub.utils.disable_progress_bars()

    def run(self, check_plan: Callable[[Path], None]) -> Path:
        file = self._repository.file or CHECKPOINT_FILE
        beside = f"{file.rpartition('/')[0]}/{PLAN_FILE}".lstrip("/")
        plan = self._there(beside) or self._there(PLAN_FILE)
        there = self._there(file)
        if there is not None and (plan is not None or self._repository.file is not None):
            _log.info("%s is there already: %s", self._repository.id, there)
            return there
        _log.info("Downloading %s from the Hugging Face hub ...", self._repository.id)
        plan = self._download(beside) or (self._download(PLAN_FILE) if beside != PLAN_FILE else None)
        if plan is not None:
            try:
                check_plan(plan)
            except NnunetError as error:
                raise self._error(
                    "has no adaptation plan that can be used here",
                    found=str(error).replace("\n", "\n            "),
                    remedy="use another checkpoint",
                ) from error
        elif self._repository.file is None:
            raise self._error(
                "has no adaptation plan, so it is not known how its weights are to be used",
                found=f"no {PLAN_FILE}",
                expected="a repository of a checkpoint of nnssl, such as MIC-DKFZ/nnFoundationCNN",
                remedy=f"use another repository; or download a checkpoint yourself, put an {PLAN_FILE} beside it and "
                "give the path",
            )
        self._download(COUNTED_FILE)
        checkpoint = self._download_resumable(file)
        if checkpoint is None:
            raise self._error(
                "does not have the checkpoint",
                found=f"no {file}",
                remedy=f"name the file: -pc https://huggingface.co/{self._repository.id}/blob/main/FILE.pth",
            )
        return checkpoint

    def _there(self, name: str) -> Path | None:
        """The file if it was downloaded before; nobody is asked."""
        if self._folder is not None:
            path = self._folder / name
            return path if path.is_file() else None
        cached = self._hub.try_to_load_from_cache(
            self._repository.id, name, revision=self._repository.revision or "main"
        )
        return Path(cached) if isinstance(cached, str) else None

    def _download(self, name: str) -> Path | None:
        """A small file, or None if the repository does not have it."""
        return self._call(name, lambda: self._through_hub(name))

    def _download_resumable(self, name: str) -> Path | None:
        """A large file, or None if the repository does not have it.

        The hub's own download begins anew when its process was killed.
        """
        return self._call(name, lambda: self._resume(name))

    def _through_hub(self, name: str) -> Path:
        if self._folder is not None:
            make_folder(self._folder)
        path = self._hub.hf_hub_download(
            self._repository.id, name, revision=self._repository.revision, local_dir=self._folder
        )
        return Path(path)

    def _resume(self, name: str) -> Path:
        from filelock import FileLock  # huggingface_hub needs it, too

        url = self._hub.hf_hub_url(self._repository.id, name, revision=self._repository.revision)
        metadata = self._hub.get_hf_file_metadata(url)
        if self._folder is not None:
            target = self._folder / name
        else:  # in its cache, the hub looks for a file by its digest before it downloads
            storage = self._hub.file_download.repo_folder_name(repo_id=self._repository.id, repo_type="model")
            target = Path(self._hub.constants.HF_HUB_CACHE) / storage / "blobs" / metadata.etag
        make_folder(target.parent)
        partial = target.with_name(f".{target.name[:64]}-{metadata.etag[:16]}.incomplete")
        with FileLock(f"{partial}.lock"):
            if not target.is_file():
                self._append(url, partial, metadata.size)
                _check_digest(partial, metadata.etag)
                partial.replace(target)
        Path(f"{partial}.lock").unlink(missing_ok=True)
        return target if self._folder is not None else self._through_hub(name)

    def _append(self, url: str, partial: Path, size: int | None) -> None:
        with partial.open("ab") as file:
            start = file.tell()
            if start:
                _log.info("%.0f MB are there already; the rest is downloaded.", start / 1e6)
            self._hub.file_download.http_get(
                url, file, resume_size=start, headers=self._hub.utils.build_hf_headers(), expected_size=size
            )
            file.flush()
            os.fsync(file.fileno())

    def _call(self, name: str, download: Callable[[], Path]) -> Path | None:
        """What a download gives, with the hub's errors as ours; None if the repository does not have the file."""
        errors = self._hub.errors
        try:
            return download()
        except NnunetError:
            raise
        except errors.LocalEntryNotFoundError as error:
            raise self._unreachable(name, error) from error
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise self._error(
                "is open only to people whom its owner let in",
                found=_first_line(error),
                remedy=f"ask for access on https://huggingface.co/{self._repository.id} and log in:  hf auth login",
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise self._error(
                "does not exist, or is private",
                found=_first_line(error),
                remedy="check the address; for a private one log in:  hf auth login",
            ) from error
        except errors.RevisionNotFoundError as error:
            raise self._error(
                f"has no revision {self._repository.revision}", remedy="leave the revision out, or correct it"
            ) from error
        except OSError as error:
            if error.errno is not None and not isinstance(error, errors.HfHubHTTPError):
                raise storage_error(error, self._folder or Path(name)) from error
            raise self._unreachable(name, error) from error
        except Exception as error:  # the hub's clients for HTTP raise errors of their own families
            raise self._unreachable(name, error) from error

    def _unreachable(self, name: str, error: Exception) -> CheckpointError:
        return self._error(
            f"could not be downloaded ({name})",
            found=_first_line(error.__cause__ or error),
            remedy="check the connection to the internet and run the same command again: what is already there is kept."
            " Or download it elsewhere, copy it here, and give the path of the file",
        )

    def _error(
        self, problem: str, *, found: str | None = None, expected: str | None = None, remedy: str
    ) -> CheckpointError:
        return CheckpointError(
            f"The repository {self._repository.id} of the Hugging Face hub {problem}.",
            found=found,
            expected=expected,
            remedy=remedy,
        )


def _check_digest(path: Path, etag: str) -> None:
    """Compare a file with the digest that the hub has of it; of small files it has none."""
    if re.fullmatch(r"[0-9a-f]{64}", etag) and sha256_of(path) != etag:
        path.unlink()
        raise CheckpointError(
            f"The download of {path.name} is damaged, so it was deleted.",
            found="another SHA-256 digest than that of the file on the hub",
            remedy="run the same command again",
        )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _package(repository: HubRepository) -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise CheckpointError(
            f"To download {repository.id} from the Hugging Face hub, a package is needed that is not installed.",
            found=f"no huggingface_hub ({error})",
            remedy=f"{INSTALL}   or download the checkpoint with its {PLAN_FILE} yourself and give the path",
        ) from error
    package: ModuleType = huggingface_hub
    return package
