"""Copies on a disk of the node: complete, checked, continued, and without any influence on the result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import CASES, TinyTraining, checkpoint, figures, text_log

from nnunet_pt.cli.train import main
from nnunet_pt.core import files as core_files
from nnunet_pt.core.errors import StorageError, TrainingStopped
from nnunet_pt.core.resources import is_in_memory
from nnunet_pt.core.settings import Settings
from nnunet_pt.preprocessing.store import load_case
from nnunet_pt.training import copied_files, scratch
from nnunet_pt.training.distributed import Processes
from nnunet_pt.training.interruption import StopSignals
from nnunet_pt.training.patches import PatchSource
from nnunet_pt.training.scratch import place_of, read_from_scratch
from nnunet_pt.training.task import TrainingTask


class Messages:
    """What a training would say."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"WARNING: {text}")

    def last(self) -> str:
        return self.lines[-1]


def prepared(task: TrainingTask, **options: Any) -> tuple[TrainingTask, Messages]:
    said = Messages()
    standard: dict[str, Any] = {"processes": Processes(), "signals": StopSignals(), "monitor": said}
    return read_from_scratch(task, **{**standard, **options}), said


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def as_npz(folder: Path) -> None:
    """The cases of a folder as older versions of nnU-Net stored them."""
    for case in CASES:
        image, segmentation, _ = load_case(folder, case)
        np.savez_compressed(folder / f"{case}.npz", data=image, seg=segmentation)
        (folder / f"{case}.b2nd").unlink()
        (folder / f"{case}_seg.b2nd").unlink()


def test_cases_of_the_fold_are_copied_and_read(tiny: TinyTraining, tmp_path: Path) -> None:
    splits = '[{"train": ["a", "b"], "val": ["c"]}]'
    (tiny.dataset.preprocessed / "splits_final.json").write_text(splits)
    task, said = prepared(tiny.task(scratch=tmp_path / "disk"))
    assert task.local_data_folder is not None and task.local_data_folder.is_relative_to(tmp_path / "disk")
    endings = (".b2nd", "_seg.b2nd", ".pkl")
    assert set(inodes(task.reading_folder)) == {case + ending for case in "abc" for ending in endings}
    for name in inodes(task.reading_folder):
        assert (task.reading_folder / name).read_bytes() == (task.data_folder / name).read_bytes()
    assert "Copied 9 files" in said.last() and "0 were there" in said.last()
    assert task.local_data_folder.parent.stat().st_mode & 0o777 == 0o700  # patients' data on a disk that all can see
    assert inodes(task.data_folder).keys() == {case + ending for case in CASES for ending in endings}


def test_copying_goes_on_where_it_was_interrupted(tiny: TinyTraining, tmp_path: Path) -> None:
    task, _ = prepared(tiny.task(scratch=tmp_path / "disk"))
    before = inodes(task.reading_folder)
    (task.reading_folder / "a.b2nd").unlink()
    (task.reading_folder / "b.pkl").write_bytes(b"cut off")
    (task.reading_folder / f"{core_files._own_prefix()}999999999-left-c.b2nd").touch()
    task, said = prepared(tiny.task(scratch=tmp_path / "disk"))
    assert "Copied 2 files" in said.last() and "16 were there" in said.last()
    after = inodes(task.reading_folder)
    assert {name for name in after if after[name] != before.get(name)} <= {"a.b2nd", "b.pkl"}
    assert after.keys() == before.keys()
    _, said = prepared(tiny.task(scratch=tmp_path / "disk"))
    assert said.last().startswith("All 18 files")


def test_what_was_preprocessed_again_is_copied_again(tiny: TinyTraining, tmp_path: Path) -> None:
    task, _ = prepared(tiny.task(scratch=tmp_path / "disk"))
    original = task.data_folder / "d.b2nd"
    shutil.copyfile(task.data_folder / "e.b2nd", original)
    task, said = prepared(tiny.task(scratch=tmp_path / "disk"))
    assert "Copied 1 file " in said.last()
    assert (task.reading_folder / "d.b2nd").read_bytes() == original.read_bytes()
    os.utime(original, ns=(1, 1))  # an older one from a backup
    task, said = prepared(tiny.task(scratch=tmp_path / "disk"))
    assert "Copied 1 file " in said.last()


def test_datasets_of_the_same_name_do_not_meet(tiny_of: Callable[[str], TinyTraining], tmp_path: Path) -> None:
    first, second = (
        prepared(tiny_of(kind).task(scratch=tmp_path / "disk"))[0].reading_folder for kind in ("labels", "ignore")
    )
    assert first.name == second.name and first != second


def test_another_job_does_the_rest(tiny: TinyTraining, tmp_path: Path) -> None:
    """Two jobs of a node see the same files missing; what one has copied meanwhile the other leaves."""
    task, _ = prepared(tiny.task(scratch=tmp_path / "disk"))
    before = inodes(task.reading_folder)
    pairs = [(task.data_folder / name, task.reading_folder / name, ()) for name in before]
    stale = [copied_files.CopiedFile.of(*pair) for pair in pairs]
    copied_files.copy_all(stale, {}, lambda _: None)
    assert inodes(task.reading_folder) == before


def test_a_damaged_original_is_found(tiny: TinyTraining, tmp_path: Path) -> None:
    file = tiny.dataset.preprocessed / "nnUNetPlans_3d_fullres" / "b.b2nd"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(StorageError, match=r"b\.b2nd does not hold what preprocessing has written") as caught:
        prepared(tiny.task(scratch=tmp_path / "disk"))
    assert "--verify" in str(caught.value)
    assert not list((tmp_path / "disk").rglob("b.b2nd"))


def test_an_original_that_changes_meanwhile_is_not_kept(tiny: TinyTraining, tmp_path: Path) -> None:
    source = tiny.dataset.preprocessed / "nnUNetPlans_3d_fullres" / "a.b2nd"
    file = copied_files.CopiedFile.of(source, tmp_path / "copy", ())
    os.utime(source, ns=(5, 5))
    with pytest.raises(StorageError, match="changed while it was copied"):
        file.copy(None, lambda _: None)
    assert list(tmp_path.glob("*copy*")) == []


@pytest.mark.parametrize("fold", [0, "all"])
def test_npz_files_are_unpacked_on_the_scratch_disk(tiny: TinyTraining, tmp_path: Path, fold: Any) -> None:
    folder = tiny.dataset.preprocessed / "nnUNetPlans_3d_fullres"
    task, _ = prepared(tiny.task(fold=fold, scratch=tmp_path / "disk"))
    expected = PatchSource(folder, CASES).read("a", (0, 0, 0), (4, 4, 4))
    as_npz(folder)
    task, _ = prepared(tiny.task(fold=fold, scratch=tmp_path / "disk"))
    assert set(inodes(task.reading_folder)) == {case + ending for case in CASES for ending in (".npz", ".pkl")}
    source = PatchSource(task.reading_folder, CASES)
    assert all(torch.equal(x, y) for x, y in zip(source.read("a", (0, 0, 0), (4, 4, 4)), expected, strict=True))
    assert (task.reading_folder / "a.npy").is_file() and not (folder / "a.npy").exists()
    _, said = prepared(tiny.task(fold=fold, scratch=tmp_path / "disk"))
    assert said.last().startswith("All 12 files")
    np.savez_compressed(folder / "a.npz", data=np.zeros((1, 4, 4, 4), np.float32), seg=np.ones((1, 4, 4, 4), np.int16))
    os.utime(folder / "a.npz", ns=(1, 1))  # older than what was unpacked from the last one
    task, _ = prepared(tiny.task(fold=fold, scratch=tmp_path / "disk"))
    assert not PatchSource(task.reading_folder, CASES).read("a", (0, 0, 0), (4, 4, 4))[0].any()


def test_unpacked_arrays_are_copied(tiny: TinyTraining, tmp_path: Path) -> None:
    folder = tiny.dataset.preprocessed / "nnUNetPlans_3d_fullres"
    as_npz(folder)
    source = PatchSource(folder, CASES)
    for case in CASES:
        source.shape(case)
        (folder / f"{case}.npz").unlink()
    task, _ = prepared(tiny.task(scratch=tmp_path / "disk"))
    endings = (".npy", "_seg.npy", ".pkl")
    assert set(inodes(task.reading_folder)) == {case + ending for case in CASES for ending in endings}


def test_a_cascade_copies_the_previous_stage_too(tiny: TinyTraining, tmp_path: Path) -> None:
    previous = tiny.folder("3d_lowres").parent / "predicted_next_stage" / "3d_cascade_fullres"
    previous.mkdir(parents=True)
    folder = tiny.dataset.preprocessed / "nnUNetPlans_3d_fullres"
    for case in CASES:
        shutil.copyfile(folder / f"{case}_seg.b2nd", previous / f"{case}.b2nd")
    result = tiny.run("3d_cascade_fullres", scratch=tmp_path / "disk")
    assert result.validation is not None
    names = {path.parent.name for path in (tmp_path / "disk").rglob("*.b2nd")}
    assert names == {"nnUNetPlans_3d_fullres", "3d_cascade_fullres"}
    assert sorted(p.name for p in (tmp_path / "disk").rglob("3d_cascade_fullres/*")) == [f"{c}.b2nd" for c in CASES]


def test_the_result_is_the_same_and_nothing_else_is_written(tiny: TinyTraining, tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.mkdir()
    outcomes = []
    for settings in ({}, {"node_scratch": node}):
        result = tiny.run(settings=settings)
        outcomes.append((checkpoint(result.output_folder), figures(result.output_folder), result.validation))
    (plain, lines, validation), (copied, other_lines, other_validation) = outcomes
    weights = copied.network_weights
    assert all(torch.equal(value, weights[name]) for name, value in plain.network_weights.items())
    assert [line["train_loss"] for line in lines] == [line["train_loss"] for line in other_lines]
    assert validation is not None and other_validation is not None and validation.mean == other_validation.mean
    assert f"to {node} ($SLURM_TMPDIR), from where this training reads" in text_log(tiny.folder())
    assert {path.suffix for path in node.rglob("*") if path.is_file()} == {".b2nd", ".pkl"}


def test_the_training_really_reads_the_copies(
    tiny: TinyTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = []
    init = PatchSource.__init__

    def noting(self: PatchSource, folder: Path, *args: Any, **options: Any) -> None:
        folders.append(folder)
        init(self, folder, *args, **options)

    monkeypatch.setattr(PatchSource, "__init__", noting)
    tiny.run(scratch=tmp_path / "disk")
    copies = [folder for folder in folders if folder.is_relative_to(tmp_path / "disk")]
    assert len(copies) == 3  # training, validation of each epoch, final validation


def test_a_finished_training_copies_nothing(tiny: TinyTraining, tmp_path: Path) -> None:
    tiny.run()
    tiny.run(scratch=tmp_path / "disk", continue_training=True)
    tiny.run(scratch=tmp_path / "disk", validation_only=True)
    assert not (tmp_path / "disk").exists()


def test_too_little_space(tiny: TinyTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(StorageError, match="not enough space for the cases of this training") as caught:
        prepared(tiny.task(scratch=tmp_path / "disk"))
    assert "18 files" in str(caught.value) and "-scratch none" in str(caught.value)
    task = on_node(tiny, tmp_path)
    changed, said = prepared(task)
    assert changed is task
    assert said.last().startswith("WARNING: ") and "reads from the shared folder" in said.last()
    assert not list(tmp_path.rglob("node/**/*.b2nd"))


def on_node(tiny: TinyTraining, tmp_path: Path, **options: Any) -> TrainingTask:
    """A training in a job with a folder of its own on the node."""
    node = tmp_path / "node"
    node.mkdir(exist_ok=True)
    task = tiny.task(**options)
    settings = replace(task.workspace.settings, node_scratch=node)
    return replace(task, workspace=replace(task.workspace, settings=settings))


def test_files_in_memory_count_as_memory(tiny: TinyTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "is_in_memory", lambda _: True)
    monkeypatch.setattr(scratch, "available_ram_bytes", lambda: 20_000)
    _, said = prepared(on_node(tiny, tmp_path))
    assert "not enough space" in said.last()


def test_mounts_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / /job rw shared:1 - tmpfs tmpfs rw\n"
        "3 2 8:2 / /job/disk rw - xfs /dev/sdb rw\n"
    )
    found = [is_in_memory(Path(name), tmp_path) for name in ("/home/me", "/job/12", "/job/disk/12", "/jobs")]
    assert found == [False, True, False, False]


def test_a_disk_that_fills_up(tiny: TinyTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utime = os.utime

    def full(path: Path, **options: Any) -> None:
        if "b_seg" in path.name:
            raise OSError(28, "No space left on device", str(path))
        utime(path, **options)

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(StorageError, match="no space left"):
        prepared(tiny.task(scratch=tmp_path / "disk"))
    changed, said = prepared(on_node(tiny, tmp_path))
    assert changed.reading_folder == changed.data_folder and "no space left" in said.last()


def test_a_file_in_place_of_the_folder(tiny: TinyTraining, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="something else of this name"):
        prepared(tiny.task(scratch=tmp_path / "file"))


def test_missing_cases_are_named_by_the_shared_folder(tiny: TinyTraining, tmp_path: Path) -> None:
    folder = tiny.dataset.preprocessed / "nnUNetPlans_3d_fullres"
    (folder / "a.b2nd").unlink()
    with pytest.raises(StorageError, match="does not hold all cases") as caught:
        prepared(tiny.task(scratch=tmp_path / "disk"))
    assert str(folder) in str(caught.value)


def test_a_signal_stops_copying(tiny: TinyTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signals = StopSignals()
    monkeypatch.setattr(StopSignals, "requested", "stop")
    with pytest.raises(TrainingStopped, match="stopped the copying") as caught:
        prepared(tiny.task(scratch=tmp_path / "disk"), signals=signals)
    assert "run the same command again" in str(caught.value)
    monkeypatch.setattr(StopSignals, "requested", None)
    assert prepared(tiny.task(scratch=tmp_path / "disk"))[0].local_data_folder is not None


def test_one_process_of_each_node_copies(tiny: TinyTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others take what they are told: here that another node does without, and that this one does not."""
    machine = os.uname().nodename
    told = ["\tCopied 3 files", "other\tits disk is full"]
    monkeypatch.setattr(Processes, "collect", lambda _, texts: [*texts, *told])
    helper = Processes(rank=1, world_size=4, local_rank=1, on_this_machine=2)
    task, said = prepared(on_node(tiny, tmp_path), processes=helper)
    assert task.local_data_folder is not None and not list((tmp_path / "node").iterdir())
    assert said.lines[0] == "Copied 3 files" and said.lines[1].startswith("WARNING: other reads from the shared folder")
    told[1] = f"{machine}\tits disk is full"
    task, _ = prepared(on_node(tiny, tmp_path), processes=helper)
    assert task.local_data_folder is None


def test_a_node_without_a_disk_listens_to_those_that_have_one(
    tiny: TinyTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take what they say for something that comes later."""
    monkeypatch.setattr(Processes, "collect", lambda _, texts: [*texts, "\tCopied 3 files"])
    task, said = prepared(tiny.task(), processes=Processes(rank=1, world_size=2))
    assert said.lines == ["Copied 3 files"] and task.local_data_folder is None


def test_where_copies_go(tiny: TinyTraining, tmp_path: Path) -> None:
    node, missing = Settings(node_scratch=tmp_path), Settings(node_scratch=tmp_path / "missing")
    assert place_of(tiny.request(), Settings()) is None
    assert place_of(tiny.request(), missing) is None
    assert place_of(tiny.request(scratch="none"), node) is None
    automatic, own = place_of(tiny.request(), node), place_of(tiny.request(scratch=Path("~/x")), node)
    assert automatic is not None and automatic.automatic and automatic.folder == tmp_path
    assert own is not None and not own.automatic and own.folder == Path.home() / "x"
    assert Settings.from_environment({"SLURM_TMPDIR": str(tmp_path)}).node_scratch == tmp_path
    assert Settings.from_environment({}).node_scratch is None


def test_the_command(
    tiny: TinyTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node, settings = tmp_path / "node", tiny.workspace.settings
    node.mkdir()
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(getattr(settings, name)))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("SLURM_TMPDIR", str(node))
    options = {"-tr": "nnUNetTrainer_1epoch", "-iterations": "1", "-device": "cpu", "-precision": "fp32"}
    line = ["7", "3d_fullres", "0", *(word for option in options.items() for word in option), "--no_pbar"]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
        assert main([*line, "-scratch", str(tmp_path / "disk")]) == 1
    error = capsys.readouterr().err
    assert "0.00 GB free" in error and "to do:    delete copies of other trainings" in error
    assert main(line) == 0
    assert f"to {node} ($SLURM_TMPDIR), from where this training reads" in capsys.readouterr().out
    assert len(list(node.rglob("*.b2nd"))) == 12


def test_no_folder_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    """As of a variable that is not set; it would be the current folder."""
    with pytest.raises(SystemExit) as raised:
        main(["7", "3d_fullres", "0", "-scratch", ""])
    assert raised.value.code == 2 and "argument -scratch: is empty" in capsys.readouterr().err
