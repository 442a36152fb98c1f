"""Bad input gives an error that names file and case in both stages that read cases; nothing half-written stays."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import DatasetError, ImageError, NnunetError, StorageError
from nnunet_pt.preprocessing.store import case_files

SHAPE = (7, 10, 12)
STAGES = ("fingerprint", "preprocess")


@pytest.fixture
def two(small: Any) -> Any:
    """Cases a1, b2, c3 with two channels; b2 is the one that the tests spoil."""
    small.begin(channels=("T1", "T2"))
    for case in ("a1", "b2", "c3"):
        small.add(case)
    return small


@pytest.fixture
def write(image_writer: Any) -> Callable[..., None]:
    return image_writer


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(50, 20, shape).astype(np.float32)


def label() -> np.ndarray:
    return (np.arange(840).reshape(SHAPE) % 3).astype(np.float32)


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    array[3, 4, 5] = value
    return array


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


# What to do to the dataset, which file the text must name, and some words of it
SPOILERS: dict[str, tuple[Callable[[Any, Callable[..., None]], Path], str]] = {}


def spoiler(words: str) -> Callable[[Callable[..., Path]], Callable[..., Path]]:
    def register(function: Callable[..., Path]) -> Callable[..., Path]:
        SPOILERS[function.__name__] = (function, words)
        return function

    return register


@spoiler("cannot be read")
def unreadable_image(two: Any, _: Callable[..., None]) -> Path:
    two.image("b2").write_bytes(b"this is no image")
    return two.image("b2")


@spoiler("cannot be read")
def empty_image(two: Any, _: Callable[..., None]) -> Path:
    two.image("b2").write_bytes(b"")
    return two.image("b2")


@spoiler("cannot be read")
def unreadable_label(two: Any, _: Callable[..., None]) -> Path:
    two.label("b2").write_bytes(b"this is no image")
    return two.label("b2")


@spoiler("")
def image_is_a_folder(two: Any, _: Callable[..., None]) -> Path:
    two.image("b2").unlink()
    two.image("b2").mkdir()
    return two.image("b2")


@spoiler("damaged")
def truncated_image(two: Any, write: Callable[..., None]) -> Path:
    write(image(shape=(40, 40, 40)), two.image("b2", 1))
    truncate(two.image("b2", 1), 0.9)
    return two.image("b2", 1)


@spoiler("damaged")
def image_truncated_by_a_few_bytes(two: Any, _: Callable[..., None]) -> Path:
    two.image("b2").write_bytes(two.image("b2").read_bytes()[:-5])
    return two.image("b2")


@spoiler("damaged")
def truncated_label(two: Any, _: Callable[..., None]) -> Path:
    truncate(two.label("b2"), 0.7)
    return two.label("b2")


@spoiler("7, 10, 11)")
def channels_of_different_shape(two: Any, write: Callable[..., None]) -> Path:
    write(image(shape=(7, 10, 11)), two.image("b2", 1))
    return two.image("b2", 1)


@spoiler("spacing")
def channels_of_different_spacing(two: Any, write: Callable[..., None]) -> Path:
    write(image(), two.image("b2", 1), (1.0, 1.0, 2.0))
    return two.image("b2", 1)


@spoiler("(6, 10, 12)")
def label_of_different_shape(two: Any, write: Callable[..., None]) -> Path:
    write(label()[:6], two.label("b2"))
    return two.label("b2")


@spoiler("spacing")
def label_of_different_spacing(two: Any, write: Callable[..., None]) -> Path:
    write(label(), two.label("b2"), (1.0, 1.5, 1.0))
    return two.label("b2")


@spoiler("7")
def unexpected_label(two: Any, write: Callable[..., None]) -> Path:
    write(with_value(label(), 7), two.label("b2"))
    return two.label("b2")


@spoiler("-1")
def negative_label(two: Any, write: Callable[..., None]) -> Path:
    write(with_value(label(), -1), two.label("b2"))
    return two.label("b2")


@spoiler("1.5")
def fractional_label(two: Any, write: Callable[..., None]) -> Path:
    write(with_value(label(), 1.5), two.label("b2"))
    return two.label("b2")


@spoiler("40000")
def label_beyond_the_stored_type(two: Any, write: Callable[..., None]) -> Path:
    write(with_value(label(), 40_000), two.label("b2"))
    return two.label("b2")


@spoiler("1e+20")
def huge_label(two: Any, write: Callable[..., None]) -> Path:
    write(with_value(label(), 1e20), two.label("b2"))
    return two.label("b2")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", list(SPOILERS))
def test_spoiled_case(two: Any, write: Any, stage: str, name: str) -> None:
    spoil, words = SPOILERS[name]
    path = spoil(two, write)
    with pytest.raises((ImageError, StorageError)) as caught:
        getattr(two, stage)()
    text = caught.value.text()
    assert str(path) in text and "b2" in text and words in text
    assert two.leftovers() == []
    assert not list(two.data.glob("b2*")) and not (two.preprocessed / "dataset_fingerprint.json").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("what", ["image", "label"])
def test_values_that_are_not_finite(two: Any, write: Any, stage: str, what: str, value: float) -> None:
    """In NRRD files, which SimpleITK reads as they are."""
    two.begin(channels=("T1", "T2"), ending=".nrrd")
    for case in ("a1", "b2", "c3"):
        two.add(case)
    path = two.image("b2", 1) if what == "image" else two.label("b2")
    write(with_value(image() if what == "image" else label(), value), path)
    with pytest.raises(ImageError) as caught:
        getattr(two, stage)()
    assert str(path) in caught.value.text() and "b2" in caught.value.text()
    assert two.leftovers() == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("what", ["image", "label"])
def test_values_that_the_reader_hides_are_found_with_the_fingerprint(
    two: Any, write: Any, what: str, value: float
) -> None:
    path = two.image("b2", 1) if what == "image" else two.label("b2")
    write(with_value(image() if what == "image" else label(), value), path)
    with pytest.raises(ImageError) as caught:
        two.fingerprint()
    assert str(path) in caught.value.text() and "b2" in caught.value.text()


def test_opposite_infinities_are_no_zero(two: Any, write: Any) -> None:
    two.begin(channels=("T1",), ending=".nrrd")
    two.add("b2")
    write(with_value(with_value(image(), np.inf)[:, ::-1].copy(), -np.inf), two.image("b2"))
    with pytest.raises(ImageError, match="not numbers"):
        two.preprocess()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("what", ["image", "channel", "label"])
def test_missing_files(two: Any, stage: str, what: str) -> None:
    path = {"image": two.image("b2"), "channel": two.image("b2", 1), "label": two.label("b2")}[what]
    path.unlink()
    with pytest.raises(DatasetError) as caught:
        getattr(two, stage)()
    assert path.name in caught.value.text() and "b2" in caught.value.text()


@pytest.mark.parametrize("stage", STAGES)
def test_file_that_disappears_during_the_work(two: Any, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = (
        "nnunet_pt.planning.fingerprint_extractor" if stage == "fingerprint" else "nnunet_pt.preprocessing.pipeline"
    )
    from importlib import import_module

    original = import_module(module).training_cases

    def then_delete(*arguments: Any) -> Any:
        cases = original(*arguments)
        two.image("b2").unlink()
        return cases

    monkeypatch.setattr(f"{module}.training_cases", then_delete)
    with pytest.raises(NnunetError) as caught:
        getattr(two, stage)()
    assert str(two.image("b2")) in caught.value.text()
    assert two.leftovers() == []


@pytest.mark.parametrize("stage", STAGES)
def test_one_file_with_all_channels_instead_of_one_for_each(two: Any, stage: str) -> None:
    for case in ("a1", "b2", "c3"):
        two.image(case, 1).unlink()
    with pytest.raises(NnunetError) as caught:
        getattr(two, stage)()
    assert "channel" in caught.value.text()


@pytest.mark.parametrize("stage", STAGES)
def test_the_others_are_finished_on_request(two: Any, stage: str) -> None:
    two.image("b2").write_bytes(b"this is no image")
    result = getattr(two, stage)(on_failure="continue")
    assert [f.case for f in result.failures] == ["b2"]
    assert isinstance(result.failures[0].error, ImageError)
    assert two.leftovers() == []
    if stage == "preprocess":
        assert sorted(p.name for p in two.data.iterdir()) == sorted(n for c in ("a1", "c3") for n in case_files(c))
        assert "2 preprocessed" in result.summary() and "1 failed" in result.summary()
    else:
        assert not result.path.exists()
        assert sorted(p.stem for p in (two.preprocessed / "dataset_fingerprint.parts").iterdir()) == ["a1", "c3"]


def test_failed_case_leaves_no_older_files_behind(two: Any) -> None:
    two.preprocess()
    two.label("b2").write_bytes(b"this is no image")
    result = two.preprocess(on_failure="continue")
    assert result.configurations[0].kept == ("a1", "c3")
    assert not list(two.data.glob("b2*"))


# ---------------------------------------------------------------------------- disks


@pytest.mark.parametrize("stage", STAGES)
def test_full_disk(two: Any, stage: str, tiny_disk: Path, write: Any) -> None:
    write(np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32), two.image("b2"))
    write(np.random.default_rng(1).normal(size=(40, 40, 40)).astype(np.float32), two.image("b2", 1))
    write(np.ones((40, 40, 40), np.uint8), two.label("b2"))
    folder = two.data if stage == "preprocess" else two.preprocessed / "dataset_fingerprint.parts"
    folder.symlink_to(tiny_disk)
    two.num_samples = 10**6
    with pytest.raises(StorageError, match="no space left") as caught:
        getattr(two, stage)()
    assert "b2" in caught.value.text() and str(folder) in caught.value.text()
    assert not [p for p in tiny_disk.iterdir() if p.name.startswith((".partial-", "b2"))]


@pytest.mark.parametrize("stage", STAGES)
def test_full_disk_in_a_worker_process(two: Any, stage: str, tiny_disk: Path, write: Any) -> None:
    for channel in (0, 1):
        write(np.random.default_rng(channel).normal(size=(40, 40, 40)).astype(np.float32), two.image("b2", channel))
    write(np.ones((40, 40, 40), np.uint8), two.label("b2"))
    folder = two.data if stage == "preprocess" else two.preprocessed / "dataset_fingerprint.parts"
    folder.symlink_to(tiny_disk)
    two.num_samples = 10**6
    options = {"processes": 1} if stage == "preprocess" else {"num_processes": 1}
    with pytest.raises(StorageError, match="no space left") as caught:
        getattr(two, stage)(**options)
    assert "b2" in caught.value.text()
    assert not [p for p in tiny_disk.iterdir() if p.name.startswith((".partial-", "b2"))]


@pytest.mark.parametrize("stage", STAGES)
def test_every_write_may_fail(two: Any, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever flush to the disk is the one that fails, the next run repairs everything."""
    flush = os.fsync
    calls = failing = 0

    def fail_once(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fail_once)
    getattr(two, stage)()
    total, wanted = calls, two.contents()
    assert total > 3
    for failing in range(1, total + 1):
        for path in two.preprocessed.iterdir():
            if path.name not in ("dataset.json", "nnUNetPlans.json"):
                remove(path)
        calls = 0
        with pytest.raises(StorageError, match="no space left"):
            getattr(two, stage)()
        assert two.leftovers() == []
        failing = 0
        getattr(two, stage)()
        assert two.contents() == wanted


def remove(path: Path) -> None:
    import shutil

    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("stage", STAGES)
def test_folder_that_is_a_file(two: Any, stage: str) -> None:
    folder = two.data if stage == "preprocess" else two.preprocessed / "dataset_fingerprint.parts"
    folder.write_text("in the way")
    with pytest.raises(StorageError) as caught:
        getattr(two, stage)()
    assert str(folder) in caught.value.text()
    assert two.leftovers() == []


@pytest.mark.parametrize("stage", STAGES)
def test_folder_that_cannot_be_written(two: Any, stage: str) -> None:
    import subprocess

    folder = two.data if stage == "preprocess" else two.preprocessed / "dataset_fingerprint.parts"
    folder.mkdir()
    if os.geteuid() == 0:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True)
        if mounted.returncode:
            pytest.skip("root may write everywhere, and a read-only file system cannot be mounted here")
    else:
        folder.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="Cannot access") as caught:
            getattr(two, stage)()
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", folder], check=True)
        else:
            folder.chmod(0o700)
    assert str(folder) in caught.value.text()
