"""Installing archives: those that are good, and those that are not."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_pt.core.errors import ArchiveError, NnunetError, SettingsError, StorageError
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.sharing import archive as archive_module
from nnunet_pt.sharing import install_model as install_module
from nnunet_pt.sharing import replace_folder
from nnunet_pt.sharing.export_model import ExportRequest, export_model
from nnunet_pt.sharing.install_model import InstallRequest, InstallResult, install_model

DATASET = "Dataset007_Small"
MODEL = "nnUNetTrainer__nnUNetPlans__3d_fullres"
CHECKPOINT = f"{DATASET}/{MODEL}/fold_0/checkpoint_final.pth"
POSTPROCESSING = f"{DATASET}/{MODEL}/crossval_results_folds_0_1/postprocessing.pkl"
MakeZip = Callable[..., Path]


def install(results: Any, archive: Path, **options: Any) -> InstallResult:
    return install_model(InstallRequest(archive=archive, **{"progress": False, **options}), results.workspace)


def refused(results: Any, archive: Path, **options: Any) -> str:
    """The message; nothing may have been written."""
    before = results.files() if results.root.exists() else {}
    with pytest.raises(ArchiveError) as caught:
        install(results, archive, **options)
    assert results.files() == before
    assert not list(results.root.rglob(".*"))
    return str(caught.value)


@pytest.fixture
def exported(model: Any, tmp_path: Path) -> Path:
    """An archive of the model."""
    request = ExportRequest(
        dataset=7, output=tmp_path / "model.zip", configurations=("3d_fullres",), folds=(0, 1), progress=False
    )
    return export_model(request, model.workspace).path


def test_what_was_exported_is_installed(elsewhere: Any, exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = install(elsewhere, exported, progress=True)
    with zipfile.ZipFile(exported) as archive:
        assert elsewhere.files() == {name: archive.read(name) for name in sorted(archive.namelist())}
    assert result.units == (
        f"{DATASET}/{MODEL}",
        f"{DATASET}/inference_information.json",
        f"{DATASET}/inference_instructions.txt",
    )
    command = f"nnUNetv2_predict -d {DATASET} -i INPUT_FOLDER -o OUTPUT_FOLDER -c 3d_fullres -f 0 1"
    assert result.commands == (command,)
    assert command in result.summary()
    assert result.sha256 in result.summary()
    assert "Unpacking: 1/1" in capsys.readouterr().err
    assert os.listdir(elsewhere.root) == [DATASET]  # noqa: PTH208


def test_commands_name_what_is_not_the_default(results: Any, elsewhere: Any, tmp_path: Path) -> None:
    results.plans["configurations"]["3d_cascade_fullres"] = {
        "inherits_from": "3d_fullres",
        "previous_stage": "3d_lowres",
    }
    results.add("MyTrainer__myPlans__3d_cascade_fullres", folds=("all",), checkpoint="checkpoint_best")
    request = ExportRequest(
        dataset=7,
        output=tmp_path / "m.zip",
        configurations=("3d_cascade_fullres",),
        trainers=("MyTrainer",),
        plans_names=("myPlans",),
        folds=("all",),
        checkpoints=("checkpoint_best.pth",),
        progress=False,
    )
    (command,) = install(elsewhere, export_model(request, results.workspace).path).commands
    assert command == (
        f"nnUNetv2_predict -d {DATASET} -i INPUT_FOLDER -o OUTPUT_FOLDER -c 3d_cascade_fullres -tr MyTrainer "
        "-p myPlans -prev_stage_predictions FOLDER -f all -chk checkpoint_best.pth"
    )


def test_junk_of_the_makers_computer_is_not_unpacked(
    good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, caplog: pytest.LogCaptureFixture
) -> None:
    junk = (
        "__MACOSX/._x",
        f"__MACOSX/{DATASET}/._plans.json",
        f"{DATASET}/.DS_Store",
        f"{DATASET}/{MODEL}/Thumbs.db",
        "README.md",
        f"{DATASET}/{MODEL}/fold_0/validation/a.npz",
        f"{DATASET}/{MODEL}/fold_0/validation/a.pkl",
    )
    with caplog.at_level(logging.INFO):
        install(elsewhere, make_zip([(f"{DATASET}/", b""), *good.items(), *((name, b"x") for name in junk)]))
    assert elsewhere.files() == good
    assert all(name in caplog.text for name in junk)


def test_models_are_replaced_only_when_asked_for(elsewhere: Any, exported: Path) -> None:
    install(elsewhere, exported)
    shutil.copytree(elsewhere.folder / MODEL / "fold_0", elsewhere.folder / MODEL / "fold_3")
    text = refused(elsewhere, exported)
    assert f"{MODEL} (fold 0, 1, 3; in the archive: fold 0, 1)" in text
    assert "inference_information.json" in text
    assert "--force" in text
    install(elsewhere, exported, force=True)
    assert not (elsewhere.folder / MODEL / "fold_3").exists()
    with zipfile.ZipFile(exported) as archive:
        assert elsewhere.files() == {name: archive.read(name) for name in sorted(archive.namelist())}
    assert not list(elsewhere.root.rglob(".*"))


@pytest.mark.parametrize("where", ["dataset", "model"])
def test_linked_folders_stay_links_or_are_replaced_without_following_them(
    elsewhere: Any, exported: Path, tmp_path: Path, where: str
) -> None:
    install(elsewhere, exported)
    link = elsewhere.folder if where == "dataset" else elsewhere.folder / MODEL
    link.rename(tmp_path / "other_disk")
    link.symlink_to(tmp_path / "other_disk")
    install(elsewhere, exported, force=True)
    assert link.is_symlink() == (where == "dataset")
    assert (elsewhere.folder / MODEL / "plans.json").is_file()
    assert list((tmp_path / "other_disk").rglob("plans.json"))


def test_digest_is_compared(elsewhere: Any, exported: Path) -> None:
    digest = install(elsewhere, exported).sha256
    install(elsewhere, exported, force=True, sha256=digest.upper())
    text = refused(elsewhere, exported, force=True, sha256="0" * 64)
    assert digest in text
    assert "0" * 64 in text


def test_another_dataset_of_the_same_number(
    elsewhere: Any, exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "raw" / "Dataset007_Other").mkdir(parents=True)
    workspace = Workspace(Settings(raw=tmp_path / "raw", results=elsewhere.root))
    install_model(InstallRequest(archive=exported, progress=False), workspace)
    assert "Dataset007_Other; name it in full: -d Dataset007_Small" in caplog.text


# --- archives that must not be unpacked


def entry(name: str, **attributes: Any) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.json", "leads out of the folder"),
        (f"{DATASET}/{MODEL}/../../../evil.json", "leads out of the folder"),
        (f"__MACOSX/../../{DATASET}/evil", "leads out of the folder"),
        ("/tmp/evil.json", "an absolute path"),
        ("C:/evil.json", "an absolute path"),
        ("C:evil.json", "an absolute path"),
        ("\\\\server\\share\\evil.json", "an absolute path"),
        (f"{DATASET}\\..\\evil.json", "no place in file names"),
        (f"{DATASET}//{MODEL}/evil.json", "an empty part"),
        (f"{DATASET}/./evil.json", "an empty part"),
        (f"{DATASET}/{MODEL}/a\nb.json", "no place in file names"),
        (f"{DATASET}/{MODEL}/a\u202egpj.json", "no place in file names"),
        (f"{DATASET}/{MODEL}/\x1b[2Ja.json", "no place in file names"),
        (f"{DATASET}/{MODEL}/plans.json.", "remove it"),
        (f"{DATASET} /{MODEL}/plans.json", "remove it"),
        (f"{DATASET}/{MODEL}/{'x' * 300}.json", "too long"),
        (f"{DATASET}/{MODEL}/NUL:.json", "no place in file names"),
        (f"{DATASET}/{MODEL}/PLANS.json", "the same file as"),
        (f"{DATASET}/{MODEL}/plans.json/x.json", "is a file"),
    ],
)
def test_names_that_lead_elsewhere(
    good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, name: str, reason: str
) -> None:
    text = refused(elsewhere, make_zip([*good.items(), (name, b"{}")]))
    assert reason in text
    assert "Nothing of it was written" in text
    assert not (elsewhere.root.parent / "evil.json").exists()


def test_names_that_are_cut_short_by_a_null(good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip) -> None:
    path = make_zip([*good.items(), (f"{DATASET}/{MODEL}/x.jsonQevil", b"{}")])
    path.write_bytes(path.read_bytes().replace(b"x.jsonQevil", b"x.json\0evil"))
    assert "no place in file names" in refused(elsewhere, path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_names_used_twice(good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip) -> None:
    assert "the same file as" in refused(elsewhere, make_zip([*good.items(), *good.items()]))
    composed, decomposed = (f"{DATASET}/{MODEL}/{text}.json" for text in ("é", "e\u0301"))
    assert "the same file as" in refused(elsewhere, make_zip([*good.items(), (composed, b"1"), (decomposed, b"2")]))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_special_files(good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, kind: int) -> None:
    link = entry(f"{DATASET}/{MODEL}/fold_0/x.json", external_attr=(kind | 0o777) << 16, create_system=3)
    assert "a link or another special file" in refused(elsewhere, make_zip([*good.items(), (link, b"/etc/passwd")]))


@pytest.mark.parametrize(
    "name",
    [
        f"{DATASET}/{MODEL}/evil.py",
        f"{DATASET}/{MODEL}/fold_0/evil.so",
        f"{DATASET}/{MODEL}/fold_x/checkpoint_final.pth",
        f"{DATASET}/{MODEL}/fold_0/deeper/checkpoint_final.pth",
        f"{DATASET}/{MODEL}/postprocessing.pkl",
        f"{DATASET}/not_a_model/plans.json",
        f"Dataset7_Small/{MODEL}/plans.json",
        f"results/{DATASET}/{MODEL}/plans.json",
        ".bashrc",
        "evil.json",
    ],
)
def test_files_that_do_not_belong_to_a_model(
    good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, name: str
) -> None:
    text = refused(elsewhere, make_zip([*good.items(), (name, b"{}")]))
    assert repr(name) in text
    assert "do not belong to a model" in text


@pytest.mark.parametrize("content", ["nothing", "other files", "a checkpoint", "no checkpoint"])
def test_archives_of_something_else(
    good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, model: Any, content: str
) -> None:
    path = {
        "nothing": lambda: make_zip({}),
        "other files": lambda: make_zip({"photos/1.jpg": b"x", "photos/2.jpg": b"x"}),
        "a checkpoint": lambda: model.root / CHECKPOINT,
        "no checkpoint": lambda: make_zip({name: data for name, data in good.items() if not name.endswith(".pth")}),
    }[content]()
    text = refused(elsewhere, path)
    assert "holds no model of nnU-Net" in text
    assert {"nothing": "no files", "other files": "photos/1.jpg", "a checkpoint": "a checkpoint"}.get(
        content, ""
    ) in text


@pytest.mark.parametrize(
    ("beginning", "found"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"\x80\x02}q\x00", "a pickle"),
        (b"nonsense", "begins with b'nons'"),
    ],
)
def test_files_that_are_no_archive(elsewhere: Any, tmp_path: Path, beginning: bytes, found: str) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(beginning)
    text = refused(elsewhere, path)
    assert "is not a ZIP archive" in text
    assert found in text


def test_truncated_archive(elsewhere: Any, exported: Path) -> None:
    whole = exported.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 1):
        exported.write_bytes(whole[:length])
        assert "truncated" in refused(elsewhere, exported)


def test_damaged_content(elsewhere: Any, exported: Path) -> None:
    content = bytearray(exported.read_bytes())
    with zipfile.ZipFile(exported) as archive:
        info = archive.getinfo(CHECKPOINT)
    middle = info.header_offset + info.compress_size // 2
    content[middle : middle + 20] = bytes(20)
    exported.write_bytes(content)
    assert "damaged" in refused(elsewhere, exported)


def test_sizes_that_are_not_true(elsewhere: Any, exported: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        info = archive.getinfo(CHECKPOINT)
    for said in (info.file_size - 100, info.file_size + 100):
        path = exported.with_name("lie.zip")
        true, lie = (number.to_bytes(4, "little") for number in (info.file_size, said))
        path.write_bytes(exported.read_bytes().replace(true, lie))
        assert "damaged" in refused(elsewhere, path)


@pytest.mark.parametrize("flag", ["encrypted", "method"])
def test_content_that_cannot_be_read(elsewhere: Any, exported: Path, flag: str) -> None:
    content = bytearray(exported.read_bytes())
    at = content.find(b"PK\x01\x02")
    if flag == "encrypted":
        content[at + 8] |= 1
    else:
        content[at + 10] = 9
    exported.write_bytes(content)
    assert {"encrypted": "encrypted", "method": "method 9"}[flag] in refused(elsewhere, exported)


def test_content_that_overlaps(elsewhere: Any, exported: Path) -> None:
    content = bytearray(exported.read_bytes())
    first = content.find(b"PK\x01\x02")
    second = content.find(b"PK\x01\x02", first + 4)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    exported.write_bytes(content)
    assert "shares its content with" in refused(elsewhere, exported)


def test_bomb_by_ratio(good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip) -> None:
    bomb = make_zip({**good, f"{DATASET}/{MODEL}/fold_0/debug.json": b" " * 70_000_000})
    text = refused(elsewhere, bomb)
    assert "70 MB in 0.0" in text
    assert "100 times the packed size" in text
    assert "--max_gb" in text
    with pytest.raises(ArchiveError, match="not valid JSON"):  # its size is accepted, its content is not
        install(elsewhere, bomb, max_gb=0.1)


def test_bomb_by_size(elsewhere: Any, exported: Path) -> None:
    text = refused(elsewhere, exported, max_gb=0.00001)
    assert "GB unpacked" in text


def test_bomb_of_many_small_files(
    good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {f"{DATASET}/{MODEL}/fold_0/{k}.json": b" " * 1_000_000 for k in range(30)}
    monkeypatch.setattr(
        install_module.InstallRequest, "limits", lambda _: archive_module.Limits(ratio_from_bytes=20_000_000)
    )
    assert "all together: 30 MB" in refused(elsewhere, make_zip({**good, **parts}))
    monkeypatch.setattr(install_module.InstallRequest, "limits", lambda _: archive_module.Limits(members=10))
    assert "at most 10" in refused(elsewhere, make_zip({**good, **parts}))


class Attack:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", [CHECKPOINT, POSTPROCESSING])
def test_nothing_in_an_archive_is_executed(
    good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, tmp_path: Path, name: str
) -> None:
    trace, file = tmp_path / "executed", tmp_path / "file"
    if name == CHECKPOINT:
        torch.save({"network_weights": Attack(trace)}, file)
    else:
        file.write_bytes(pickle.dumps(([Attack(trace)], [{}])))
    text = refused(elsewhere, make_zip({**good, name: file.read_bytes()}))
    assert name in text
    assert "executed" in text or "more than data" in text
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("plans.json", b"{", "not valid JSON"),
        ("plans.json", b"[" * 100_000, "cannot be read"),
        ("plans.json", b"1" * 10_000, "cannot be read"),
        ("plans.json", b"{}", "plans.json"),
        ("dataset.json", b"[]", "dataset.json"),
        ("fold_0/checkpoint_final.pth", b"x", "is not a checkpoint"),
        ("fold_0/debug.json", b"\xff", "UTF-8"),
    ],
)
def test_content_that_is_not_what_its_name_says(
    good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, name: str, content: bytes, found: str
) -> None:
    text = refused(elsewhere, make_zip({**good, f"{DATASET}/{MODEL}/{name}": content}))
    assert found in text
    assert f"{DATASET}/{MODEL}/{name}" in text
    assert ".partial" not in text


def test_checkpoint_that_is_packed_once_more(
    good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, tmp_path: Path
) -> None:
    again = tmp_path / "again.pth"
    (tmp_path / "plain.pth").write_bytes(good[CHECKPOINT])
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert "packed once more" in refused(elsewhere, make_zip({**good, CHECKPOINT: again.read_bytes()}))


def test_incomplete_models_are_all_named(good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip) -> None:
    other = {name.replace("3d_fullres", "mine"): data for name, data in good.items()}
    third = {name.replace("3d_fullres", "2d"): data for name, data in good.items() if not name.endswith("plans.json")}
    text = refused(elsewhere, make_zip({**good, **other, **third}))
    assert "mine" in text
    assert f"The model {DATASET}/nnUNetTrainer__nnUNetPlans__2d is incomplete. Found: missing: plans.json" in text


# --- trouble with the disk


def test_results_folder_is_not_set(exported: Path) -> None:
    with pytest.raises(SettingsError, match="nnUNet_results"):
        install_model(InstallRequest(archive=exported), Workspace(Settings()))


def test_archive_is_not_there(elsewhere: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        install(elsewhere, tmp_path / "missing.zip")


def test_results_folder_cannot_be_written(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a part of the path is a file"):
        install_model(InstallRequest(archive=exported), Workspace(Settings(results=tmp_path / "file" / "results")))


def test_disk_is_full_before(elsewhere: Any, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(StorageError, match="There is not enough space") as caught:
        install(elsewhere, exported)
    assert "1.0 MB free" in str(caught.value)
    assert elsewhere.files() == {}


def test_disk_becomes_full(exported: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_module, "check_space", lambda *_: None)
    (tiny_disk / "other").write_bytes(bytes(50_000))
    with pytest.raises(StorageError, match="no space left"):
        install_model(InstallRequest(archive=exported, progress=False), Workspace(Settings(results=tiny_disk)))
    assert [path.name for path in tiny_disk.iterdir()] == ["other"]


KILLED = """
import os, signal, sys
from pathlib import Path
from nnunet_pt.core.settings import Settings, Workspace
from nnunet_pt.sharing import install_model as module, replace_folder

moment, results, archive = sys.argv[1:]

def killing(function, *, before):
    def wrapped(*args, **kwargs):
        if not before:
            function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapped

if moment == "unpacking":
    module.check_content = killing(module.check_content, before=True)
else:
    module.check_content = lambda *_: None  # it would import torch
if moment == "before moving":
    module.move_into_place = killing(module.move_into_place, before=True)
elif moment == "after moving":
    module.move_into_place = killing(module.move_into_place, before=False)
elif moment != "unpacking":
    replace_folder._exchange = lambda *_: False
    if moment == "between renames":
        rename = Path.rename
        def once(path, target):
            if ".partial" in str(path):
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)
        Path.rename = once
    else:
        replace_folder._remove = killing(replace_folder._remove, before=True)
request = module.InstallRequest(archive=Path(archive), force=True, progress=False)
module.install_model(request, Workspace(Settings(results=Path(results))))
"""


@pytest.mark.parametrize(
    ("moment", "there"),
    [
        ("unpacking", "old"),
        ("before moving", "old"),
        ("after moving", "new"),
        ("between renames", "none"),
        ("after renames", "new"),
    ],
)
def test_killed_install_leaves_the_old_or_the_new_model(
    good: dict[str, bytes], elsewhere: Any, make_zip: MakeZip, moment: str, there: str
) -> None:
    new = {name: data for name, data in good.items() if "crossval" not in name}
    old = {**new, f"{DATASET}/{MODEL}/README.md": b"old"}
    install(elsewhere, make_zip(old, "old.zip"))
    arguments = [moment, str(elsewhere.root), str(make_zip(new, "new.zip"))]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    now = {name: data for name, data in elsewhere.files().items() if "/." not in f"/{name}"}
    assert now == {"old": old, "new": new, "none": {}}[there]
    with pytest.raises(ArchiveError, match="installed already"):  # and the next one tidies up
        install(elsewhere, make_zip(new, "new.zip"))
    assert elsewhere.files() == (new if there == "new" else old)
    assert not list(elsewhere.root.rglob(".*"))


@contextlib.contextmanager
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(replace_folder, "_exchange", lambda *_: False)
        yield


def test_replacing_where_folders_cannot_change_places(
    elsewhere: Any, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(elsewhere, exported)
    before = elsewhere.files()
    (elsewhere.folder / MODEL / "README").write_text("old")
    with without_exchange(monkeypatch):
        install(elsewhere, exported, force=True)
    assert elsewhere.files() == before
    assert not list(elsewhere.root.rglob(".*"))


def test_another_install_was_faster(elsewhere: Any, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = install_module.check_content

    def slow(*args: Any) -> None:
        check(*args)
        monkeypatch.setattr(install_module, "check_content", check)
        install(elsewhere, exported)

    monkeypatch.setattr(install_module, "check_content", slow)
    with pytest.raises(ArchiveError, match="exists and was not replaced"):
        install(elsewhere, exported)
    assert json.loads((elsewhere.folder / MODEL / "dataset.json").read_text()) == elsewhere.description


def test_errors_of_this_room_are_for_users() -> None:
    assert issubclass(ArchiveError, NnunetError)
