"""Checkpoints of the Hugging Face hub, from a server of our own that speaks the few addresses that are needed."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_pt.core.errors import CheckpointError, UsageError
from nnunet_pt.core.settings import Settings
from nnunet_pt.transfer.checkpoint_files import checkpoint_file
from nnunet_pt.transfer.hub import fetch_checkpoint
from nnunet_pt.transfer.hub_reference import HubRepository, parse_reference

constants = pytest.importorskip("huggingface_hub.constants")

PLAN = {"architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None}}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories in memory: ``owner/name`` to file to content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.seen: list[tuple[str, str, str | None]] = []
        self.cut_after: int | None = None
        self.renamed: dict[str, str] = {}
        self.elsewhere: set[str] = set()
        self.tokens: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        self.server.seen.append((self.command, self.path, self.headers.get("Range")))
        self.server.tokens.append((self.path, self.headers.get("Authorization")))
        repository = "/".join(parts[:2])
        if repository in self.server.renamed:
            return self._send_on("/" + "/".join([self.server.renamed[repository], *parts[2:]]), 307)
        if parts[0] == "storage":  # files have addresses of their own there, and no names
            return self._deliver(self.server.repositories["/".join(parts[1:3])][parts[-1]], body=body)
        if len(parts) < 5 or parts[2] != "resolve" or repository not in self.server.repositories:
            return self._refuse(401, "RepoNotFound")
        if repository in self.server.gated:
            return self._refuse(403, "GatedRepo")
        if parts[3] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        content = self.server.repositories[repository].get("/".join(parts[4:]))
        if content is None:
            return self._refuse(404, "EntryNotFound")
        if parts[-1] in self.server.elsewhere:
            address = self.server.address.replace("127.0.0.1", "localhost")
            return self._send_on(f"{address}/storage/{repository}/{parts[-1]}", 302, content)
        return self._deliver(content, body=body)

    def _send_on(self, address: str, status: int, content: bytes | None = None) -> None:
        self.send_response(status)
        self.send_header("Location", address)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        if content is not None:
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.end_headers()

    def _deliver(self, content: bytes, *, body: bool) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            limit = self.server.cut_after
            cut = limit is not None and len(content) > limit
            self.wfile.write(content[start:limit] if cut else content[start:])
            self.close_connection = cut

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    point_to(server.address, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def repository(tmp_path: Path, plan: Any = PLAN) -> dict[str, bytes]:
    path = tmp_path / "made.pth"
    torch.save({"network_weights": {"encoder.stem.weight": torch.arange(3000.0)}}, path)
    return {
        "adaptation_plan.json": json.dumps(plan).encode(),
        "checkpoint_final.pth": path.read_bytes(),
        "config.json": b"{}",
    }


@pytest.fixture
def offered(hub: Hub, tmp_path: Path) -> Hub:
    hub.repositories["Some-One/ResEncL.MAE"] = repository(tmp_path)
    return hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(pretrained_models=tmp_path / "models")


def fetch(settings: Settings, reference: str = "Some-One/ResEncL.MAE") -> Path:
    return checkpoint_file(reference, settings, progress=False)


REFERENCES = {
    "https://huggingface.co/Some-One/ResEncL.MAE": (None, None),
    "https://huggingface.co/Some-One/ResEncL.MAE/": (None, None),
    "http://www.huggingface.co/Some-One/ResEncL.MAE": (None, None),
    "https://hf.co/Some-One/ResEncL.MAE": (None, None),
    "huggingface.co/Some-One/ResEncL.MAE": (None, None),
    "https://huggingface.co/models/Some-One/ResEncL.MAE": (None, None),
    "Some-One/ResEncL.MAE": (None, None),
    "https://huggingface.co/Some-One/ResEncL.MAE/tree/main": (None, None),
    "https://huggingface.co/Some-One/ResEncL.MAE/tree/v2": ("v2", None),
    "https://huggingface.co/Some-One/ResEncL.MAE/blob/main/README.md": (None, None),
    "https://huggingface.co/Some-One/ResEncL.MAE/blob/main/adaptation_plan.json": (None, None),
    "https://huggingface.co/Some-One/ResEncL.MAE/checkpoint_final.pth": (None, "checkpoint_final.pth"),
    "https://huggingface.co/Some-One/ResEncL.MAE/resolve/main/a/b.pth?download=true": (None, "a/b.pth"),
    "https://huggingface.co/Some-One/ResEncL.MAE/blob/v2/other%20one.pth": ("v2", "other one.pth"),
}


@pytest.mark.parametrize(("text", "expected"), REFERENCES.items())
def test_repositories_are_recognised(text: str, expected: tuple[str | None, str | None]) -> None:
    revision, file = expected
    assert parse_reference(text) == HubRepository(owner="Some-One", name="ResEncL.MAE", revision=revision, file=file)


@pytest.mark.parametrize("text", ["a.pth", "folder/a.pth", "./a/b", "/a/b", "../a/b", "~/b", "a/b/c", "a b/c", "name"])
def test_paths_are_paths(text: str) -> None:
    assert parse_reference(text) is None


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_reference("models/mine") is not None
    (tmp_path / "models").mkdir()
    assert parse_reference("models/mine") is None  # a mistyped file in a folder that is there


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/a/b.pth",
        "https://huggingface.co/Some-One",
        "ftp://huggingface.co/a/b",
        "https://huggingface.co/a/../b",
        "https://huggingface.co.example.org/a/b",
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not the address of a checkpoint"):
        parse_reference(text)


def test_download_into_the_folder_of_pretrained_models(offered: Hub, settings: Settings) -> None:
    path = fetch(settings)
    assert settings.pretrained_models is not None
    assert path == settings.pretrained_models / "Some-One_ResEncL.MAE" / "checkpoint_final.pth"
    assert path.read_bytes() == offered.repositories["Some-One/ResEncL.MAE"]["checkpoint_final.pth"]
    assert json.loads((path.parent / "adaptation_plan.json").read_text()) == PLAN
    assert [s for s in offered.seen if s[0] == "GET" and "config.json" in s[1]]  # the hub counts it


@pytest.mark.usefixtures("offered")
def test_without_that_folder_the_hubs_cache_is_used(tmp_path: Path) -> None:
    path = fetch(Settings())
    assert path.is_relative_to(tmp_path / "cache") and (path.parent / "adaptation_plan.json").is_file()


@pytest.mark.parametrize("with_folder", [True, False])
def test_what_is_there_is_used_without_the_network(
    with_folder: bool, offered: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = settings if with_folder else Settings()
    first = fetch(where)
    offered.seen.clear()
    assert fetch(where) == first and offered.seen == []
    point_to("http://127.0.0.1:9", monkeypatch)
    assert fetch(where, "https://huggingface.co/Some-One/ResEncL.MAE/tree/main") == first


@pytest.mark.parametrize("with_folder", [True, False])
def test_interrupted_download_goes_on_where_it_stopped(
    with_folder: bool, offered: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = settings if with_folder else Settings()
    content = offered.repositories["Some-One/ResEncL.MAE"]["checkpoint_final.pth"]
    offered.cut_after = 5000
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what is not a whole piece yet is lost
    monkeypatch.setattr("time.sleep", lambda _: None)  # between attempts
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        fetch(where)
    assert not list(tmp_path.rglob("checkpoint_final.pth"))
    offered.cut_after = None
    offered.seen.clear()
    assert fetch(where).read_bytes() == content
    ranges = [r for method, url, r in offered.seen if method == "GET" and url.endswith(".pth")]
    assert ranges == ["bytes=5000-"]
    assert not list(tmp_path.rglob("*.incomplete"))


def test_damaged_download_is_noticed(offered: Hub, settings: Settings) -> None:
    content = offered.repositories["Some-One/ResEncL.MAE"]["checkpoint_final.pth"]
    digest = hashlib.sha256(content).hexdigest()
    assert settings.pretrained_models is not None
    folder = settings.pretrained_models / "Some-One_ResEncL.MAE"
    folder.mkdir(parents=True)
    (folder / f".checkpoint_final.pth-{digest[:16]}.incomplete").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is damaged, so it was deleted"):
        fetch(settings)
    assert fetch(settings).read_bytes() == content


def test_renamed_owner_and_files_on_another_host(
    offered: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the hub, where an owner has another name now, and large files come from a storage that knows no users."""
    offered.renamed["Anon-Res/ResEncL.MAE"] = "Some-One/ResEncL.MAE"
    offered.elsewhere.add("checkpoint_final.pth")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = fetch(settings, "https://huggingface.co/Anon-Res/ResEncL.MAE")
    assert path.parent.name == "Anon-Res_ResEncL.MAE"
    assert path.read_bytes() == offered.repositories["Some-One/ResEncL.MAE"]["checkpoint_final.pth"]
    stored = [token for address, token in offered.tokens if address.startswith("/storage/")]
    assert stored and not any(stored) and "Bearer hf_secret" in [token for _, token in offered.tokens]


def test_a_file_that_is_named(offered: Hub, settings: Settings) -> None:
    files = offered.repositories["Some-One/ResEncL.MAE"]
    files["fold/other.pth"] = files.pop("checkpoint_final.pth")
    path = fetch(settings, "https://huggingface.co/Some-One/ResEncL.MAE/blob/main/fold/other.pth")
    assert path.name == "other.pth" and path.read_bytes() == files["fold/other.pth"]


@pytest.mark.usefixtures("offered")
def test_other_revisions_have_folders_of_their_own(settings: Settings) -> None:
    path = fetch(settings, f"https://huggingface.co/Some-One/ResEncL.MAE/tree/{COMMIT}")
    assert path.parent.name == f"Some-One_ResEncL.MAE@{COMMIT[:12]}"
    with pytest.raises(CheckpointError, match="has no revision v9"):
        fetch(settings, "https://huggingface.co/Some-One/ResEncL.MAE/tree/v9")


@pytest.mark.usefixtures("hub")
def test_no_internet(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(CheckpointError, match="could not be downloaded") as caught:
        fetch(settings)
    assert "connection to the internet" in str(caught.value) and "give the path" in str(caught.value)


@pytest.mark.usefixtures("hub")
def test_no_such_repository(settings: Settings) -> None:
    with pytest.raises(CheckpointError, match="does not exist, or is private"):
        fetch(settings)


def test_repository_that_asks_for_permission(offered: Hub, settings: Settings) -> None:
    offered.gated.add("Some-One/ResEncL.MAE")
    with pytest.raises(CheckpointError, match="only to people whom its owner let in"):
        fetch(settings)


def test_repository_without_an_adaptation_plan(offered: Hub, settings: Settings) -> None:
    del offered.repositories["Some-One/ResEncL.MAE"]["adaptation_plan.json"]
    with pytest.raises(CheckpointError, match="has no adaptation plan"):
        fetch(settings)
    assert not [s for s in offered.seen if ".pth" in s[1]]


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [([], "usable adaptation plan"), ({"architecture_plans": {"arch_class_name": "Swin"}}, "ResEncL")],
)
def test_plan_that_cannot_be_used_is_found_before_the_large_download(
    plan: Any, complaint: str, offered: Hub, settings: Settings
) -> None:
    offered.repositories["Some-One/ResEncL.MAE"]["adaptation_plan.json"] = json.dumps(plan).encode()
    with pytest.raises(CheckpointError, match="has no adaptation plan that can be used here") as caught:
        fetch(settings)
    assert complaint in str(caught.value)
    assert not [s for s in offered.seen if ".pth" in s[1]]


def test_repository_without_a_checkpoint(offered: Hub, settings: Settings) -> None:
    del offered.repositories["Some-One/ResEncL.MAE"]["checkpoint_final.pth"]
    with pytest.raises(CheckpointError, match="does not have the checkpoint"):
        fetch(settings)


def test_missing_package(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="not installed") as caught:
        fetch_checkpoint(HubRepository(owner="a", name="b"), settings)
    assert "pip install 'nnunet-pt[hub]'" in str(caught.value)
