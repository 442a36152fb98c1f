"""Downloads from a server of this machine, which can be as bad as those of the world."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import ArchiveError, NnunetError, StorageError, UsageError
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.sharing import download as download_module
from nnunet_pt.sharing.download import DownloadRequest, download_and_install
from nnunet_pt.sharing.export_model import ExportRequest, ExportResult, export_model

MakeZip = Callable[..., Path]


@dataclass
class Server:
    """What a web server offers and how.

    Attributes:
        content: The file.
        breaks_after: For each request in turn, after how many bytes the connection ends.
        ranges: Whether parts of the file can be asked for.
        length: Whether it says how large the file is.
        etag: Identifies the content; empty: not at all.
        statuses: For each request in turn, the HTTP status.
        location: Where it sends us on to.
        asked: The ranges that were asked for.
    """

    content: bytes
    breaks_after: list[int] = field(default_factory=list)
    ranges: bool = True
    length: bool = True
    etag: str = '"1"'
    statuses: list[int] = field(default_factory=list)
    location: str = ""
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers["Range"]
        self.asked.append(wanted)
        status = self.statuses.pop(0) if self.statuses else 200
        begin = 0
        if wanted and self.ranges and request.headers["If-Range"] == self.etag and status == 200:
            status, begin = 206, int(wanted.removeprefix("bytes=").removesuffix("-"))
        request.send_response(status)
        if status >= 300:
            request.send_header("Location", self.location)
            request.end_headers()
            return
        if self.length:
            request.send_header("Content-Length", str(len(self.content) - begin))
        if self.etag:
            request.send_header("ETag", self.etag)
        request.end_headers()
        end = self.breaks_after.pop(0) if self.breaks_after else len(self.content)
        request.wfile.write(self.content[begin : begin + end])


@pytest.fixture
def archive(model: Any, tmp_path: Path) -> ExportResult:
    request = ExportRequest(
        dataset=7, output=tmp_path / "model.zip", configurations=("3d_fullres",), folds=(0,), progress=False
    )
    return export_model(request, model.workspace)


@pytest.fixture
def server(archive: ExportResult, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    offered = Server(archive.path.read_bytes())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            offered.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(download_module, "PAUSE_S", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        offered.url = f"http://127.0.0.1:{http.server_port}/path/model.zip"
        yield offered
        http.shutdown()
        thread.join()


def fetch(server: Server, results: Any, **options: Any) -> Any:
    request = DownloadRequest(**{"url": server.url, "progress": False, **options})
    return download_and_install(request, results.workspace)


def failure(server: Server, results: Any, **options: Any) -> str:
    """The message; nothing may be left."""
    with pytest.raises(NnunetError) as caught:
        fetch(server, results, **options)
    assert results.files() == {}
    assert not list(results.root.rglob(".*"))
    return str(caught.value)


def test_model_is_installed_and_the_archive_deleted(
    server: Server,
    elsewhere: Any,
    archive: ExportResult,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = fetch(server, elsewhere, progress=True)
    assert result.sha256 == archive.sha256
    assert (elsewhere.folder / archive.models[0] / "fold_0" / "checkpoint_final.pth").is_file()
    assert [path.name for path in elsewhere.root.iterdir()] == ["Dataset007_Small"]
    assert "not encrypted" in caplog.text
    assert "Downloading: 1/1" in capsys.readouterr().err


def test_digest_makes_up_for_missing_encryption(
    server: Server, elsewhere: Any, archive: ExportResult, caplog: pytest.LogCaptureFixture
) -> None:
    assert "is not the archive it should be" in failure(server, elsewhere, sha256="0" * 64)
    fetch(server, elsewhere, sha256=archive.sha256)
    assert "not encrypted" not in caplog.text
    with pytest.raises(ArchiveError, match="installed already"):
        fetch(server, elsewhere)
    fetch(server, elsewhere, force=True)


@pytest.mark.parametrize("etag", ['"1"', "", 'W/"1"'])
@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connections_are_taken_up_again(
    server: Server, elsewhere: Any, archive: ExportResult, ranges: bool, etag: str
) -> None:
    server.breaks_after, server.ranges, server.etag = [5000, 10, 0, 3000], ranges, etag
    assert fetch(server, elsewhere).sha256 == archive.sha256
    resumed = [None, "bytes=5000-", "bytes=5010-", "bytes=5010-", "bytes=8010-"]
    if etag == '"1"' and ranges:
        assert server.asked == resumed
    if etag != '"1"':
        assert server.asked == [None] * 5


def test_parts_of_different_files_are_not_mixed(
    server: Server, elsewhere: Any, archive: ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, server.content = server.content, b"older" * 5000
    server.breaks_after = [9000]

    def replaced(_: float) -> None:
        server.content, server.etag = good, '"2"'

    monkeypatch.setattr(download_module.time, "sleep", replaced)
    assert fetch(server, elsewhere).sha256 == archive.sha256
    assert server.asked == [None, "bytes=9000-"]


def test_connections_that_always_break(server: Server, elsewhere: Any) -> None:
    server.breaks_after = [0] * 10
    assert "the connection ended early" in failure(server, elsewhere)
    assert len(server.asked) == download_module.ATTEMPTS


def test_server_that_is_busy_is_asked_again(server: Server, elsewhere: Any, archive: ExportResult) -> None:
    server.statuses = [503, 429]
    assert fetch(server, elsewhere).sha256 == archive.sha256


@pytest.mark.parametrize("status", [404, 403, 410])
def test_address_without_a_file(server: Server, elsewhere: Any, status: int) -> None:
    server.statuses = [status]
    text = failure(server, elsewhere)
    assert f"HTTP status {status}" in text
    assert "nnUNetv2_install_pretrained_model_from_zip" in text
    assert len(server.asked) == 1


def test_nobody_answers(server: Server, elsewhere: Any) -> None:
    server.url = "http://127.0.0.1:1/model.zip"
    assert "refused" in failure(server, elsewhere)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x"])
def test_redirections_to_other_places(server: Server, elsewhere: Any, location: str) -> None:
    server.statuses, server.location = [302] * 10, location
    failure(server, elsewhere)


def test_redirections_within_the_web(server: Server, elsewhere: Any, archive: ExportResult) -> None:
    server.statuses, server.location = [302], "/elsewhere.zip"
    assert fetch(server, elsewhere).sha256 == archive.sha256


@pytest.mark.parametrize("length", [True, False])
def test_files_that_are_too_large(server: Server, elsewhere: Any, length: bool) -> None:
    server.length = length
    text = failure(server, elsewhere, max_gb=0.00001)
    assert f"{server.url} is too large" in text
    assert "--max_gb" in text


def test_unknown_size(server: Server, elsewhere: Any, archive: ExportResult) -> None:
    server.length = False
    assert fetch(server, elsewhere).sha256 == archive.sha256


@pytest.mark.parametrize(
    ("content", "found"), [(b"<!DOCTYPE html>please log in", "a web page"), (b"PK\x03\x04half", "truncated")]
)
def test_something_else_is_downloaded(server: Server, elsewhere: Any, content: bytes, found: str) -> None:
    server.content = content
    text = failure(server, elsewhere)
    assert found in text
    assert server.url in text
    assert ".partial" not in text


def test_refused_archives_are_named_by_their_address(server: Server, elsewhere: Any, make_zip: MakeZip) -> None:
    server.content = make_zip({"../evil": b"x"}).read_bytes()
    assert f"The archive {server.url} was refused" in failure(server, elsewhere)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/y.zip", "model.zip", "/data/model.zip", "https:model.zip", "data:,x", ""]
)
def test_addresses_that_are_not_of_the_web(server: Server, elsewhere: Any, url: str) -> None:
    server.url = url
    with pytest.raises(UsageError, match="cannot be downloaded"):
        fetch(server, elsewhere)
    assert not elsewhere.root.exists()


def test_disk_becomes_full(server: Server, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "check_space", lambda *_: None)
    (tiny_disk / "other").write_bytes(bytes(50_000))
    server.content = bytes(100_000)
    with pytest.raises(StorageError, match="no space left"):
        download_and_install(DownloadRequest(url=server.url, progress=False), Workspace(Settings(results=tiny_disk)))
    assert [path.name for path in tiny_disk.iterdir()] == ["other"]


def test_redirection_from_encrypted_to_unencrypted_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    from urllib.error import URLError
    from urllib.request import Request

    with caplog.at_level(logging.INFO), pytest.raises(URLError, match="not safe"):
        download_module._Redirects().redirect_request(
            Request("https://x/y"),
            None,
            302,
            "",
            None,
            "http://x/y",  # type: ignore[arg-type]
        )
