"""What a user names when asked for a checkpoint: a repository of the Hugging Face hub, or a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from nnunet_pt.core.errors import UsageError

HOSTS: Final = ("huggingface.co", "www.huggingface.co", "hf.co")
CHECKPOINT_ENDINGS: Final = (".pth", ".pt", ".ckpt", ".safetensors", ".model", ".bin")

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepository:
    """A checkpoint on the hub.

    Attributes:
        owner: User or organisation.
        name: Name of the repository.
        revision: Branch, tag or commit; None for the newest.
        file: Path of the checkpoint in the repository; None for the usual one.
    """

    owner: str
    name: str
    revision: str | None = None
    file: str | None = None

    @property
    def id(self) -> str:
        """The name by which the hub knows it."""
        return f"{self.owner}/{self.name}"

    @property
    def folder_name(self) -> str:
        """Name of its folder in nnssl_pretrained_models, as nnU-Net names it; other revisions have their own."""
        if self.revision is None:
            return f"{self.owner}_{self.name}"
        commit = re.fullmatch("[0-9a-f]{40}", self.revision)
        short = self.revision[:12] if commit else re.sub("[^A-Za-z0-9._-]", "-", self.revision)
        return f"{self.owner}_{self.name}@{short}"


def parse_reference(text: str) -> HubRepository | None:
    """What a user means by a checkpoint: a repository of the hub, or None for a path.

    Understood are ``https://huggingface.co/OWNER/REPO``, also with ``/tree/main``, ``/blob/main/FILE`` or a file, and
    ``OWNER/REPO`` where no such file or folder exists.

    Raises:
        UsageError: If it is a web address of something else.
    """
    host, separator, rest = text.partition("://")
    if separator:
        address = urlsplit(text)
        if host not in ("http", "https") or (address.hostname or "") not in HOSTS:
            raise _no_repository(text)
        return _from_parts([unquote(part) for part in address.path.split("/") if part], text)
    first, _, rest = text.partition("/")
    if first in HOSTS:
        return _from_parts([part for part in rest.split("/") if part], text)
    if _REPOSITORY.fullmatch(text) and not text.endswith(CHECKPOINT_ENDINGS):
        path = Path(text)
        if not path.exists() and not path.parent.exists():
            return HubRepository(owner=first, name=rest)
    return None


def _from_parts(parts: list[str], text: str) -> HubRepository:
    if parts[:1] == ["models"]:
        parts = parts[1:]
    if len(parts) < 2 or not all(re.fullmatch(_NAME, part) for part in parts[:2]) or ".." in parts:
        raise _no_repository(text)
    owner, name, *rest = parts
    revision = None
    if rest and rest[0] in ("tree", "blob", "resolve", "raw"):
        revision = rest[1] if len(rest) > 1 and rest[1] != "main" else None
        rest = rest[2:]
    file = "/".join(rest)
    return HubRepository(
        owner=owner, name=name, revision=revision, file=file if file.endswith(CHECKPOINT_ENDINGS) else None
    )


def _no_repository(text: str) -> UsageError:
    return UsageError(
        f"{text!r} is not the address of a checkpoint.",
        expected="a file, https://huggingface.co/OWNER/REPO, or OWNER/REPO",
        remedy="download files from elsewhere yourself and give the path",
    )
