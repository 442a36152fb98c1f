"""Downloads model archives, and installs them."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import ArchiveError, UsageError
from nnunet_pt.core.files import make_folder, storage_errors, temporary_folder
from nnunet_pt.core.settings import Workspace
from nnunet_pt.core.value_types import check_fields
from nnunet_pt.sharing.archive import GIGABYTE, MEGABYTE, PIECE, byte_progress, size_text
from nnunet_pt.sharing.install_model import InstallRequest, InstallResult, check_space, clean, install_model

_log = get_logger(__name__)

TIMEOUT_S = 60.0
ATTEMPTS = 5
PAUSE_S = 2.0
_PASSING = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadRequest:
    """What to download and install.

    Attributes:
        url: Address of the archive, https:// or http://.
        sha256: The digest it must have; ``None``: any.
        force: Replace models that are there.
        max_gb: Size of the archive, and of its content; ``None``: 50 GB.
        progress: Show progress.
    """

    url: str
    sha256: str | None = None
    force: bool = False
    max_gb: float | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to other web addresses only, and never from an encrypted to an unencrypted one."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = (urllib.parse.urlsplit(url).scheme for url in (req.full_url, newurl))
        if new not in ("http", "https") or (old == "https" and new == "http"):
            raise urllib.error.URLError(f"the server sent us on to {newurl}, which is not safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download_and_install(request: DownloadRequest, workspace: Workspace) -> InstallResult:
    """Download an archive into nnUNet_results, install it, and delete it.

    Raises:
        UsageError: If the address is none of the web.
        ArchiveError: If it cannot be downloaded, or not be installed; see
            :func:`nnunet_pt.sharing.install_model.install_model`.
        StorageError: If nnUNet_results cannot be written.
    """
    parts = urllib.parse.urlsplit(request.url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(
            f"{request.url!r} cannot be downloaded.",
            expected="an address that begins with https://",
            remedy="for a file on this computer: nnUNetv2_install_pretrained_model_from_zip FILE",
        )
    if parts.scheme == "http" and request.sha256 is None:
        _log.warning("http:// is not encrypted: somebody on the way could replace the model. Use https:// or --sha256.")
    results = make_folder(workspace.results)
    clean(results)
    with temporary_folder(results) as folder:
        path = folder / "model.zip"
        Download(request, path).run()
        install = InstallRequest(
            archive=path, sha256=request.sha256, force=request.force, max_gb=request.max_gb, progress=request.progress
        )
        try:
            return install_model(install, workspace)
        except ArchiveError as error:  # the file has no name that means anything to the user
            problem = error.problem.replace(str(path), request.url)
            raise ArchiveError(problem, found=error.found, expected=error.expected, remedy=error.remedy) from error


class Download:
    """One file on its way; a connection that breaks is taken up where it ended, if the server can do that.

    Args:
        request: What to download.
        path: The new file.
    """

    def __init__(self, request: DownloadRequest, path: Path) -> None:
        self._request = request
        self._path = path
        self._limit = round((request.max_gb or 50.0) * GIGABYTE)
        self._version = ""  # of the file on the server: its parts must not be mixed with those of another one
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
            _Redirects(),
        ):
            self._opener.add_handler(handler)

    def run(self) -> None:
        """Download the file.

        Raises:
            ArchiveError: If that is not possible.
            StorageError: If it cannot be written.
        """
        self._path.touch()
        failures = 0
        while True:
            before = self._path.stat().st_size
            try:
                if self._fetch():
                    return
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"HTTP status {error.code}: {error.reason}"
                if error.code not in _PASSING:
                    raise self._failed(reason) from error
            except (OSError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", error)
                reason = str(cause) or type(cause).__name__
                if isinstance(cause, (ssl.SSLCertVerificationError, socket.gaierror)):  # will not pass
                    raise self._failed(reason) from error
            failures = 1 if self._path.stat().st_size > before else failures + 1
            if failures == ATTEMPTS:
                raise self._failed(reason)
            _log.info("%s; trying again.", reason)
            time.sleep(PAUSE_S * failures)

    def _failed(self, reason: str) -> ArchiveError:
        return ArchiveError(
            f"{self._request.url} could not be downloaded. Nothing was installed.",
            found=reason,
            remedy="check the address and the network; or download it with a browser, and install the file with "
            "nnUNetv2_install_pretrained_model_from_zip",
        )

    def _fetch(self) -> bool:
        """Ask for what is missing of the file; whether it is complete then."""
        have = self._path.stat().st_size
        headers = {"User-Agent": "nnunet_pt", "Accept-Encoding": "identity"}
        if have and self._version:
            headers |= {"Range": f"bytes={have}-", "If-Range": self._version}
        asked = urllib.request.Request(self._request.url, headers=headers)
        with self._opener.open(asked, timeout=TIMEOUT_S) as answer:
            if answer.status != 206:
                have = 0
            self._version = _version(answer.headers)
            length = answer.headers.get("Content-Length", "")
            total = have + int(length) if length.isdecimal() else None
            self._check_size(total or 0)
            check_space(self._path.parent, (total or 0) - have)
            with storage_errors(self._path):
                os.truncate(self._path, have)
            with byte_progress(total or 0, "Downloading", enabled=self._request.progress) as count:
                count(have)
                while piece := answer.read(PIECE):
                    with storage_errors(self._path), self._path.open("ab") as file:
                        file.write(piece)
                    have += len(piece)
                    count(len(piece))
                    self._check_size(have)
            return total is None or have == total

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise ArchiveError(
                f"{self._request.url} is too large. Nothing was installed.",
                found=size_text(size) if size > MEGABYTE else f"{size:,} bytes",
                expected=f"at most {self._limit / GIGABYTE:g} GB",
                remedy="if you trust its source: --max_gb N",
            )


def _version(headers: Message) -> str:
    """What identifies the file's content on the server; empty if nothing does."""
    tag = str(headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified", ""))
