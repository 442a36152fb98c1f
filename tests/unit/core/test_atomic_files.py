"""Files that are complete or absent, JSON, checksums."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_pt.core import files
from nnunet_pt.core.errors import StorageError
from nnunet_pt.core.files import (
    TEMPORARY_PREFIX,
    atomic_path,
    checksum,
    copy_file,
    digest_of,
    json_text,
    make_folder,
    plain_json,
    read_json,
    remove_leftovers,
    temporary_folder,
    write_bytes,
    write_json,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))  # noqa: PTH208


def test_file_appears_complete_in_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "data.npz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".npz"
        assert temporary.name.startswith(TEMPORARY_PREFIX)
        temporary.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert names(path.parent) == ["data.npz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_failed_block_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "data"
    write_text(path, "old")
    with pytest.raises(BaseException), atomic_path(path) as temporary:  # noqa: B017
        temporary.write_text("new")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["data"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "x", "x")
        source = tmp_path / "source"
        source.write_text("s")
        source.chmod(0o400)
        copy_file(source, tmp_path / "copy")
    finally:
        os.umask(before)
    for name in ("x", "copy"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_very_long_names_work(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".txt")
    write_text(path, "content")
    assert path.read_text() == "content"


def test_killed_process_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from nnunet_pt.core.files import atomic_path\n"
        f"with atomic_path(Path({str(tmp_path / 'data.b2nd')!r})) as t:\n"
        "    t.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (name,) = names(tmp_path)
    assert name.startswith(TEMPORARY_PREFIX)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_temporary_folders_are_gone_at_the_end_or_with_the_leftovers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), temporary_folder(tmp_path / "new") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        remove_leftovers(tmp_path / "new")
        assert names(folder) == ["sub"]
        raise ValueError("stop")
    assert names(tmp_path / "new") == []
    code = (
        "import os, signal; from pathlib import Path; from nnunet_pt.core.files import temporary_folder\n"
        f"with temporary_folder(Path({str(tmp_path)!r})) as t:\n"
        "    (t / 'file').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(names(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["new"]


def test_folder_of_another_machine_is_in_use_while_anything_in_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / f"{TEMPORARY_PREFIX}0123-99-abc"
    folder.mkdir()
    (folder / "growing").touch()
    for age_s, there in ((0, True), (3600, False)):
        for path in (folder / "growing", folder):
            os.utime(path, (time.time() - (age_s if path != folder else 3600),) * 2)
        remove_leftovers(tmp_path)
        assert folder.exists() == there


def test_files_being_written_are_not_leftovers(tmp_path: Path) -> None:
    foreign = tmp_path / f"{TEMPORARY_PREFIX}0123-99-abc-case.npz"
    old = tmp_path / f"{TEMPORARY_PREFIX}0123-98-abc-case.npz"
    for path in (foreign, old):
        path.touch()
    os.utime(old, (time.time() - 3600,) * 2)
    with atomic_path(tmp_path / "now") as temporary:
        os.utime(temporary, (time.time() - 3600,) * 2)
        remove_leftovers(tmp_path)
        assert names(tmp_path) == sorted([foreign.name, temporary.name])
        temporary.write_text("complete")
    remove_leftovers(tmp_path / "missing")
    assert (tmp_path / "now").read_text() == "complete"


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.ENOSPC, "no space left on the device"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_trouble_while_writing_names_the_final_path(tmp_path: Path, number: int, found: str) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(StorageError) as caught, atomic_path(path) as temporary:
        raise OSError(number, os.strerror(number), str(temporary))
    assert caught.value.problem == f"Cannot access {path}"
    assert caught.value.found == found
    assert caught.value.remedy
    assert names(tmp_path) == []


def test_full_disk_while_flushing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        write_json(tmp_path / "plans.json", {})
    assert names(tmp_path) == []


def test_another_file_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="other_input") as caught, atomic_path(tmp_path / "result"):
        (tmp_path / "other_input").read_bytes()
    assert "result" not in caught.value.problem


def test_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/folder"):
        make_folder(tmp_path / "file" / "folder")
    with pytest.raises(StorageError):
        write_text(tmp_path / "file" / "x.txt", "")


def test_folder_without_permission_is_reported(tmp_path: Path) -> None:
    own = os.geteuid()
    tmp_path.chmod(0o500)
    if own == 0:
        os.seteuid(65534)  # the superuser may write everywhere
    try:
        with pytest.raises(StorageError, match="permission denied"):
            write_text(tmp_path / "x", "")
    finally:
        os.seteuid(own)
        tmp_path.chmod(0o700)


def test_copy_keeps_content_and_time(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    os.utime(source, ns=(1_600_000_000_123_456_789,) * 2)
    copy_file(source, tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == source.read_bytes()
    assert (tmp_path / "new" / "copy").stat().st_mtime_ns == 1_600_000_000_123_456_789


def test_copy_names_the_side_that_fails(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        copy_file(tmp_path / "missing", tmp_path / "copy")
    (tmp_path / "source").touch()
    (tmp_path / "occupied").mkdir()
    with pytest.raises(StorageError, match="occupied"):
        copy_file(tmp_path / "source", tmp_path / "occupied")
    assert names(tmp_path) == ["occupied", "source"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(value=JSON)
def test_json_round_trip(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_json_has_four_spaces_nan_and_the_given_order() -> None:
    assert (
        json_text({"b": [1.0, math.nan], "a": ()}) == '{\n    "b": [\n        1.0,\n        NaN\n    ],\n    "a": []\n}'
    )
    assert list(json.loads(json_text({"b": 1, "a": 2}, sort_keys=True))) == ["a", "b"]


def test_numpy_and_python_types_become_plain() -> None:
    value = {
        np.int64(3): np.float32(0.5),
        (1, np.int16(2)): np.arange(4).reshape(2, 2),
        "set": {3, 1, 2},
        "path": Path("/a"),
        "flag": np.bool_(True),
        None: np.array(1.5),
    }
    plain = plain_json(value)
    assert plain == {
        3: 0.5,
        "(1, 2)": [[0, 1], [2, 3]],
        "set": [1, 2, 3],
        "path": "/a",
        "flag": True,
        None: 1.5,
    }
    assert type(plain["flag"]) is bool
    assert type(next(iter(plain))) is int
    json.dumps(plain)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"a": 1,\n "b" 2}', "line 2"), (b"", "line 1"), (b"\xff\xfe", "UTF-8"), (b'{"a": 1} trailing', "column 10")],
)
def test_damaged_json_is_located(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=expected) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no such file"):
        read_json(tmp_path / "plans.json")


def test_checksum_depends_on_content_only(tmp_path: Path) -> None:
    large = os.urandom(5 << 20)
    for name, content in {"a": large, "b": large, "c": large[:-1]}.items():
        write_bytes(tmp_path / name, content)
    assert checksum(tmp_path / "a") == checksum(tmp_path / "b") != checksum(tmp_path / "c")
    assert len(checksum(tmp_path / "a")) == 32
    with pytest.raises(StorageError, match="nothing"):
        checksum(tmp_path / "nothing")


def test_digest_ignores_key_order_and_array_types() -> None:
    assert digest_of({"a": (1, 2), "b": 1}) == digest_of({"b": np.int8(1), "a": np.array([1, 2])})
    assert digest_of({"a": [1, 2]}) != digest_of({"a": [2, 1]})


@pytest.mark.parametrize("content", [b"1" * 10_000, b"[" * 100_000, b'{"a": 1', b"\xff"])
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"x\.json"):
        read_json(path)


@pytest.mark.parametrize("ahead_s", [-86400.0, 86400.0])
def test_leftovers_are_judged_by_the_clock_of_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    """Machines that share a file system need not agree on the time."""
    foreign, old = (tmp_path / f"{TEMPORARY_PREFIX}0123-{n}-abc-case.npz" for n in (99, 98))
    for path in (foreign, old):
        path.touch()
    now = time.time()
    os.utime(old, (now - 3600,) * 2)
    monkeypatch.setattr(time, "time", lambda: now + ahead_s)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [foreign.name]
