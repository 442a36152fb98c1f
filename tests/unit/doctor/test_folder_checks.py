"""Folders: each state that a folder can be in leads to the right status and advice."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.doctor.folders import check_folders, file_system
from nnunet_pt.doctor.system import Space, space_of, write_failure

GB = 1 << 30
NAMES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Three folders that exist."""
    folders = {name: tmp_path / name for name in NAMES}
    for folder in folders.values():
        folder.mkdir()
    return {name: str(folder) for name, folder in folders.items()}


def test_three_good_folders_are_ok(machine: Any, env: dict[str, str], by_key: Any) -> None:
    found = by_key(check_folders(machine.system(env)))
    assert set(found) == {*NAMES, "temporary"}
    assert {f.status for f in found.values()} == {"ok"}
    assert found["nnUNet_raw"].found == f"{env['nnUNet_raw']}, 500 GB free"
    assert not any(f.why or f.remedy for f in found.values())


def test_missing_variables_are_problems_with_the_line_to_type(machine: Any, by_key: Any) -> None:
    found = by_key(check_folders(machine.system()))
    for name in NAMES:
        assert found[name].status == "problem"
        assert found[name].remedy.startswith(f"export {name}=")
        assert found[name].values == {"path": None}


@pytest.mark.parametrize("state", ["missing", "file"])
def test_what_is_no_folder_is_a_problem(machine: Any, env: dict[str, str], by_key: Any, state: str) -> None:
    path = Path(env["nnUNet_results"])
    path.rmdir()
    if state == "file":
        path.touch()
    finding = by_key(check_folders(machine.system(env)))["nnUNet_results"]
    assert finding.status == "problem"
    assert str(path) in finding.found
    assert ("mkdir -p" in finding.remedy) is (state == "missing")


def test_commands_can_be_pasted_with_odd_paths(machine: Any, env: dict[str, str], by_key: Any, tmp_path: Path) -> None:
    path = tmp_path / "it's mine"
    found = by_key(check_folders(machine.system({**env, "nnUNet_results": str(path)})))
    command, _, rest = found["nnUNet_results"].remedy.partition("   (")
    assert shlex.split(command) == ["mkdir", "-p", str(path)] and rest


def test_unwritable_folders_are_problems_but_raw_data_need_not_be_writable(
    machine: Any, env: dict[str, str], by_key: Any
) -> None:
    denied = OSError(errno.EROFS, os.strerror(errno.EROFS))
    found = by_key(check_folders(machine.system(env, write_failure=lambda _: denied)))
    assert {name: found[name].status for name in NAMES} == dict(zip(NAMES, ("ok", "problem", "problem"), strict=True))
    assert "Read-only" in found["nnUNet_results"].found
    assert found["temporary"].status == "problem"
    assert "TMPDIR" in found["temporary"].remedy


@pytest.mark.parametrize(("free", "status"), [(1 * GB, "problem"), (10 * GB, "note"), (100 * GB, "ok")])
def test_full_disks(machine: Any, env: dict[str, str], by_key: Any, free: int, status: str) -> None:
    found = by_key(check_folders(machine.system(env, space=lambda _: Space(free))))
    assert found["nnUNet_raw"].status == "ok"  # nothing is written there
    for name in NAMES[1:]:
        assert found[name].status == status
        assert found[name].values["free_bytes"] == free


def test_a_disk_without_room_for_files_is_noted(machine: Any, env: dict[str, str], by_key: Any) -> None:
    found = by_key(check_folders(machine.system(env, space=lambda _: Space(500 * GB, free_files=12))))
    assert found["nnUNet_preprocessed"].status == "note"
    assert "12 files" in found["nnUNet_preprocessed"].found


def test_unknown_space_is_no_problem(machine: Any, env: dict[str, str], by_key: Any) -> None:
    def fails(_path: Path) -> Space:
        raise OSError

    found = by_key(check_folders(machine.system(env, space=fails)))
    assert {f.status for f in found.values()} == {"ok"}


def test_network_disks_are_noted_where_patches_are_read(machine: Any, env: dict[str, str], by_key: Any) -> None:
    lines = ["20 1 8:1 / / rw - ext4 /dev/sda1 rw", f"21 20 0:40 / {env['nnUNet_preprocessed']} rw - nfs4 host:/x rw"]
    machine.write("proc/self/mountinfo", "\n".join(lines))
    found = by_key(check_folders(machine.system(env)))
    assert found["nnUNet_preprocessed"].status == "note"
    assert "nfs4" in found["nnUNet_preprocessed"].found
    assert found["nnUNet_results"].status == "ok"
    assert file_system(Path(env["nnUNet_results"]), machine.system()) == "ext4"


def test_one_folder_for_two_purposes_is_a_problem(machine: Any, env: dict[str, str], by_key: Any) -> None:
    link = Path(env["nnUNet_results"])
    link.rmdir()
    link.symlink_to(env["nnUNet_raw"])
    finding = by_key(check_folders(machine.system(env)))["distinct"]
    assert finding.status == "problem"
    assert finding.values["variables"] == ["nnUNet_raw", "nnUNet_results"]


def test_the_real_probes_leave_nothing_behind(tmp_path: Path) -> None:
    assert write_failure(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert space_of(tmp_path).free > 0
    failure = write_failure(tmp_path / "missing")
    assert failure is not None
    assert failure.errno == errno.ENOENT


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert write_failure(tmp_path) is not None
    finally:
        tmp_path.chmod(0o700)
