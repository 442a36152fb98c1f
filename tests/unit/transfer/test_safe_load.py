"""Nothing in a checkpoint is ever executed, and files that are none are named with what they are."""

from __future__ import annotations

import builtins
import contextlib
import functools
import io
import os
import pickle
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.transfer.safe_load import load_file

Write = Callable[..., Path]


class Calls:
    """A pickle of this calls a function when it is read carelessly."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def with_pickle(path: Path, content: bytes) -> Path:
    """A checkpoint whose pickle is replaced."""
    torch.save({"a": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, content if name.endswith("data.pkl") else data)
    return path


def attacks(trace: Path) -> dict[str, Any]:
    command = f"touch {trace}"
    return {
        "system": Calls(os.system, command),
        "eval": Calls(builtins.eval, f"open({str(trace)!r}, 'w')"),
        "popen": Calls(subprocess.Popen, ["touch", str(trace)]),
        "getattr": Calls(getattr, os, "system"),
        "partial": Calls(functools.partial, os.system, command),
        "another_load": Calls(torch.load, str(trace)),
        "numpy_load": Calls(np.load, str(trace)),
    }


@pytest.mark.parametrize("attack", attacks(Path()))
@pytest.mark.parametrize("form", ["archive", "legacy", "bare", "newer_protocol"])
def test_nothing_is_executed(tmp_path: Path, attack: str, form: str) -> None:
    trace = tmp_path / "executed"
    content = {"network_weights": attacks(trace)[attack]}
    if attack == "getattr":  # a module itself cannot be pickled
        content = {"network_weights": Calls(getattr, "text", "upper")}
    path = tmp_path / "checkpoint_final.pth"
    if form == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif form == "bare":
        path.write_bytes(pickle.dumps(content, 2))
    else:
        with_pickle(path, pickle.dumps(content, 2 if form == "archive" else 4))
    with pytest.raises(CheckpointError) as error:
        load_file(path)
    assert str(path) in str(error.value)
    assert not trace.exists()


def test_the_request_is_named(tmp_path: Path) -> None:
    path = with_pickle(tmp_path / "a.pth", pickle.dumps(Calls(os.system, "true"), 2))
    with pytest.raises(CheckpointError, match=r"nothing of it was executed(.|\n)*system"):
        load_file(path)


def test_modules_are_not_data(tmp_path: Path, raw_writer: Write) -> None:
    with pytest.raises(CheckpointError, match="Linear"):
        load_file(raw_writer(tmp_path / "a.pth", torch.nn.Linear(1, 1)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float64(0.1), 0.1),
        (np.int64(-7), -7),
        (np.uint8(200), 200),
        (np.bool_(True), True),
        (np.str_("héllo"), "héllo"),
        (np.array([[1, 2], [3, 4]], np.int16), [[1, 2], [3, 4]]),
        (np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]), [[1.0, 2.0], [3.0, 4.0]]),
        (np.arange(3, dtype=">f4"), [0.0, 1.0, 2.0]),
        (torch.device("cpu"), torch.device("cpu")),
        ((0, None, True, 1.5, "x"), (0, None, True, 1.5, "x")),
    ],
    ids=str,
)
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_numpy_values_become_plain_ones(
    tmp_path: Path, raw_writer: Write, value: Any, expected: Any, core: str
) -> None:
    path = raw_writer(tmp_path / "a.pth", {"value": value})
    with zipfile.ZipFile(path) as archive:
        data = next(archive.read(n) for n in archive.namelist() if n.endswith("data.pkl"))
    path = with_pickle(path, data.replace(b"cnumpy._core.", f"c{core}.".encode()))
    found = load_file(path)["value"]
    assert found == expected
    assert not isinstance(found, np.generic)


def test_object_arrays_are_refused(tmp_path: Path, raw_writer: Write) -> None:
    with pytest.raises(CheckpointError):
        load_file(raw_writer(tmp_path / "a.pth", np.array([{}], object)))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_both_forms_of_torch_files(tmp_path: Path, raw_writer: Write, lazy: bool, zipped: bool) -> None:
    path = raw_writer(tmp_path / "a.pth", {"a": torch.arange(5)}, _use_new_zipfile_serialization=zipped)
    assert load_file(path, lazy=lazy)["a"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("share", [0, 0.001, 0.05, 0.5, 0.9, 0.99, 0.999])
def test_truncated_files(tmp_path: Path, raw_writer: Write, share: float, lazy: bool) -> None:
    path = raw_writer(tmp_path / "a.pth", {str(i): torch.randn(50) for i in range(20)})
    content = path.read_bytes()[: int(share * path.stat().st_size)]
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_file(path, lazy=lazy)
    assert str(path) in str(error.value)
    assert f"{len(content):,} bytes" in str(error.value)


def test_changed_bytes_are_noticed(tmp_path: Path, raw_writer: Write) -> None:
    path = raw_writer(tmp_path / "a.pth", {"a": torch.full((1000,), 3.0)})
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((2,), 3.0).numpy().tobytes()) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_file(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4), lazy=st.booleans())
def test_damage_anywhere_is_survived(
    tmp_path: Path, raw_writer: Write, changes: list[tuple[float, int]], lazy: bool
) -> None:
    content = {"weights": {"a": torch.ones(3, 2)}, "figures": [np.float32(1), np.arange(3)], "text": "x"}
    path = raw_writer(tmp_path / "a.pth", content)
    data = bytearray(path.read_bytes())
    for share, byte in changes:
        data[int(share * (len(data) - 1))] = byte
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):
        load_file(path, lazy=lazy)


def test_files_without_checksums_are_read(tmp_path: Path, raw_writer: Write) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = raw_writer(tmp_path / "a.pth", {"a": torch.arange(3)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_file(path)["a"].tolist() == [0, 1, 2]


def a_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("\x80\x02evil"), io.BytesIO())


def a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("plans.json", "{}")


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda _: None, "no such file"),
    "folder": (lambda p: p.mkdir(), "a folder"),
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "text": (lambda p: p.write_text("hello world"), "hello world"),
    "json": (lambda p: p.write_text('{"a": 1}'), "JSON"),
    "page": (lambda p: p.write_text("<!DOCTYPE html><p>Not found"), "web page"),
    "lfs": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1"), "Git LFS"),
    "safetensors": (lambda p: p.write_bytes(b"\x02\0\0\0\0\0\0\0{}"), "safetensors"),
    "archive": (a_zip, "ZIP archive"),
    "tar": (a_tar, "not a checkpoint"),
    "script": (lambda p: with_record(p, "constants.pkl"), "TorchScript"),
}


def with_record(path: Path, name: str) -> None:
    torch.save({}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"archive/{name}", b"")


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_named(tmp_path: Path, kind: str) -> None:
    make, expected = OTHERS[kind]
    path = tmp_path / "checkpoint_final.pth"
    make(path)
    with pytest.raises(CheckpointError, match=expected) as error:
        load_file(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("lazy", [False, True])
def test_files_that_are_packed_once_more_are_refused(tmp_path: Path, lazy: bool) -> None:
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"weights": torch.zeros(100_000)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match="packed once more"):
        load_file(packed, lazy=lazy)
