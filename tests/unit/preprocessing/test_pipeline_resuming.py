"""Preprocessing does what is missing or out of date, and nothing else; the result is that of a run from scratch."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_pt.core.errors import NnunetError
from nnunet_pt.preprocessing.store import case_files, load_case

CASES = ("a1", "b2", "c3")


@pytest.fixture
def done(three: Any) -> Any:
    """A dataset of three cases, preprocessed."""
    assert made(three.preprocess()) == CASES
    return three


def made(result: Any) -> tuple[str, ...]:
    return result.configurations[0].made


def damage(path: Path, content: bytes) -> None:
    """Change a file behind the back of everybody who looks at size and time only."""
    status = path.stat()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flipped(path: Path) -> bytes:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


def test_files_are_nnunets(done: Any) -> None:
    assert sorted(p.name for p in done.data.iterdir()) == sorted(n for c in CASES for n in case_files(c))
    assert sorted(p.name for p in (done.preprocessed / "gt_segmentations").iterdir()) == [f"{c}.nii.gz" for c in CASES]
    image, segmentation, properties = load_case(done.data, "a1")
    # 7x10x12 voxels with a border of zeros: 5x8x10 remain, at spacing 1.3 x 1.2 x 0.9
    assert image.shape == (1, 4, 7, 11) and segmentation.shape == (1, 4, 7, 11)
    assert properties["spacing"] == [1.0, 1.0, 1.0]
    assert properties["shape_before_cropping"] == (7, 10, 12)
    assert properties["bbox_used_for_cropping"] == [[1, 6], [1, 9], [1, 11]]
    assert properties["shape_after_cropping_and_before_resampling"] == (5, 8, 10)
    assert list(properties["class_locations"]) == [1, 2]
    assert {"sitk_stuff", "spacing"} <= set(properties)


def test_second_run_touches_nothing(done: Any) -> None:
    before = done.times()
    result = done.preprocess()
    assert result.configurations[0].kept == CASES and made(result) == ()
    assert done.times() == before
    assert "0 preprocessed, 3 already there" in result.summary()


def redone_after(dataset: Any, change: Callable[[], object]) -> tuple[str, ...]:
    """Which cases another run makes anew after a change; everything must then be as it was."""
    before, times = dataset.contents(dataset.data), dataset.times()
    change()
    result = dataset.preprocess()
    assert dataset.contents(dataset.data) == before
    touched = {name for name, time in dataset.times().items() if times[name] != time}
    assert touched == {name for case in made(result) for name in case_files(case)}
    assert set(result.configurations[0].kept) == set(CASES) - set(made(result))
    return made(result)


@pytest.mark.parametrize("name", case_files("b2"))
def test_deleted_file(done: Any, name: str) -> None:
    assert redone_after(done, (done.data / name).unlink) == ("b2",)


@pytest.mark.parametrize("name", case_files("b2"))
def test_truncated_file(done: Any, name: str) -> None:
    path = done.data / name
    assert redone_after(done, lambda: damage(path, path.read_bytes()[:-1])) == ("b2",)


@pytest.mark.parametrize("name", case_files("b2"))
def test_changed_file(done: Any, name: str) -> None:
    path = done.data / name
    assert redone_after(done, lambda: path.write_bytes(flipped(path))) == ("b2",)


def test_touched_files_of_the_same_content_are_kept(done: Any) -> None:
    before = done.times()
    for path in (done.image("a1"), done.label("b2")):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    os.utime(done.data / "c3.pkl", (1_000_000_000, 1_000_000_000))
    assert made(done.preprocess()) == ()
    assert {n: t for n, t in done.times().items() if n != "c3.pkl"} == {
        n: t for n, t in before.items() if n != "c3.pkl"
    }


@pytest.mark.parametrize("what", ["image", "label"])
def test_changed_raw_file(done: Any, what: str, image_writer: Any) -> None:
    times = done.times()
    before = done.contents()
    if what == "image":
        image_writer(np.arange(840, dtype=np.float32).reshape(7, 10, 12), done.image("b2"))
    else:
        label = np.ones((7, 10, 12), np.uint8)
        image_writer(label, done.label("b2"))
        os.utime(done.label("b2"), (1_000_000_000, 1_000_000_000))  # an older file took its place
    assert made(done.preprocess()) == ("b2",)
    assert {n for n, t in done.times().items() if times[n] != t} == set(case_files("b2"))
    changed = {n for n, content in done.contents().items() if before[n] != content}
    assert f"{done.data.name}/b2.{'b2nd' if what == 'image' else 'pkl'}" in changed
    assert ("gt_segmentations/b2.nii.gz" in changed) == (what == "label")
    assert (done.preprocessed / "gt_segmentations" / "b2.nii.gz").read_bytes() == done.label("b2").read_bytes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spacing", [1.0, 1.2, 0.9]),
        ("patch_size", [8, 16, 8]),
        ("use_mask_for_norm", [False]),
        ("normalization_schemes", ["RescaleTo01Normalization"]),
        ("resampling_fn_data", "resample_torch_fornnunet"),
    ],
)
def test_changed_settings_concern_every_case(done: Any, key: str, value: Any) -> None:
    entry = done.plans["configurations"]["3d_fullres"]
    entry[key] = value
    if key == "resampling_fn_data":
        entry["resampling_fn_data_kwargs"] = {"is_seg": False, "force_separate_z": False}
    done.plan()
    result = done.preprocess()
    assert made(result) == CASES and result.configurations[0].damaged == ()
    assert made(done.preprocess()) == ()


def test_other_changes_of_the_plans_concern_none(done: Any) -> None:
    done.plans["configurations"]["3d_fullres"] |= {"batch_size": 7, "batch_dice": True}
    done.plan()
    assert made(done.preprocess()) == ()


def test_new_and_removed_cases(done: Any) -> None:
    done.add("d4")
    for path in (done.image("b2"), done.label("b2")):
        path.unlink()
    times = done.times()
    assert made(done.preprocess()) == ("d4",)
    assert sorted(p.name for p in done.data.iterdir()) == sorted(n for c in ("a1", "c3", "d4") for n in case_files(c))
    assert all(done.times()[n] == times[n] for c in ("a1", "c3") for n in case_files(c))
    manifest = (done.preprocessed / "nnUNetPlans_3d_fullres.manifest.jsonl").read_text()
    assert [json.loads(line)["case"] for line in manifest.splitlines()] == ["a1", "c3", "d4"]


def test_foreign_files_are_removed(done: Any) -> None:
    for name in ("old.npz", "a1.npy", "a1_seg.npy", "zz.b2nd"):
        (done.data / name).write_bytes(b"")
    assert made(done.preprocess()) == ()
    assert sorted(p.name for p in done.data.iterdir()) == sorted(n for c in CASES for n in case_files(c))


def test_leftovers_of_killed_processes_are_removed_everywhere(done: Any) -> None:
    for folder in (done.preprocessed, done.data, done.preprocessed / "gt_segmentations"):
        leftover = folder / ".partial-somewhere-123-aa-x.b2nd"
        leftover.write_bytes(b"")
        os.utime(leftover, (1_000_000_000, 1_000_000_000))
    done.preprocess()
    assert done.leftovers() == []


def test_files_that_another_process_is_writing_are_left_to_it(done: Any) -> None:
    writing = done.data / ".partial-elsewhere-123-aa-a1.b2nd"
    writing.write_bytes(b"half a case")
    done.preprocess()
    assert writing.exists()


# ---------------------------------------------------------------------------- verify and clean


@pytest.mark.parametrize("name", case_files("b2"))
def test_verify_finds_hidden_damage_and_repairs_it(done: Any, name: str) -> None:
    before, times = done.contents(), done.times()
    damage(done.data / name, flipped(done.data / name))
    assert made(done.preprocess()) == ()  # size and time are right
    result = done.preprocess(verify=True)
    assert made(result) == ("b2",) and result.configurations[0].damaged == ("b2",)
    assert "1 were damaged (b2)" in result.summary()
    assert done.contents() == before
    assert all(done.times()[n] == times[n] for c in ("a1", "c3") for n in case_files(c))
    assert done.preprocess(verify=True).configurations[0].damaged == ()


def test_verify_without_manifest_makes_everything_anew(done: Any) -> None:
    before = done.contents()
    (done.preprocessed / "nnUNetPlans_3d_fullres.manifest.jsonl").unlink()
    assert made(done.preprocess(verify=True)) == CASES
    assert done.contents() == before


def test_folder_of_nnunet_itself_is_made_anew(three: Any) -> None:
    three.data.mkdir(parents=True)
    for case in CASES:
        (three.data / f"{case}.npz").write_bytes(b"something older")
        (three.data / f"{case}.pkl").write_bytes(b"something older")
    assert made(three.preprocess()) == CASES
    assert not list(three.data.glob("*.npz"))
    load_case(three.data, "a1")


def test_clean_makes_everything_anew(done: Any) -> None:
    before, times = done.contents(), done.times()
    (done.data / "foreign.txt").write_text("x")
    result = done.preprocess(clean=True)
    assert made(result) == CASES
    assert done.contents() == before
    assert all(done.times()[name] != time for name, time in times.items())


def test_data_folder_may_be_a_link_to_another_disk(three: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "fast_disk"
    elsewhere.mkdir()
    three.data.symlink_to(elsewhere)
    assert made(three.preprocess()) == CASES
    assert made(three.preprocess(clean=True)) == CASES
    assert three.data.is_symlink() and len(list(elsewhere.iterdir())) == 9
    assert made(three.preprocess()) == ()


def test_moved_workspace_needs_no_work(done: Any, tmp_path: Path) -> None:
    moved = copy.copy(done)
    moved.root = tmp_path / "elsewhere"
    moved.root.mkdir()
    for folder in ("raw", "preprocessed", "results"):
        shutil.move(tmp_path / folder, moved.root / folder)
    assert made(moved.preprocess()) == ()


# ---------------------------------------------------------------------------- several plans and configurations


def test_plans_that_share_a_data_folder_never_mix(done: Any) -> None:
    """The ResEnc planners share nnUNetPlans_3d_fullres with the default planner."""
    done.plans["configurations"]["3d_fullres"]["patch_size"] = [8, 16, 16]
    done.plan("nnUNetResEncUNetLPlans")
    result = done.preprocess(plans_name="nnUNetResEncUNetLPlans")
    assert made(result) == CASES and result.configurations[0].damaged == ()
    assert made(done.preprocess(plans_name="nnUNetResEncUNetLPlans")) == ()
    assert made(done.preprocess()) == CASES


def test_cascade_shares_the_data_of_the_full_resolution(three: Any) -> None:
    configurations = three.plans["configurations"]
    configurations["3d_lowres"] = {
        **configurations["3d_fullres"],
        "data_identifier": "nnUNetPlans_3d_lowres",
        "spacing": [2.0, 2.0, 2.0],
        "next_stage": "3d_cascade_fullres",
    }
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    three.plan()
    result = three.preprocess("3d_fullres", "3d_cascade_fullres", "3d_lowres")
    first, cascade, low = result.configurations
    assert first.made == CASES and low.made == CASES
    assert cascade.made == () and cascade.kept == CASES and cascade.folder == first.folder
    assert load_case(low.folder, "a1")[0].shape == (1, 2, 4, 5)


def test_configuration_named_twice(three: Any) -> None:
    result = three.preprocess("3d_fullres", "3d_fullres")
    assert [c.made for c in result.configurations] == [CASES, ()]


def test_different_data_for_the_same_folder_are_refused(three: Any) -> None:
    configurations = three.plans["configurations"]
    configurations["3d_big"] = {"inherits_from": "3d_fullres", "patch_size": [16, 16, 16]}
    three.plan()
    result = three.preprocess("3d_fullres", "3d_big")  # the same data, only laid out differently
    assert [c.made for c in result.configurations] == [CASES, CASES]
    configurations["3d_fine"] = {"inherits_from": "3d_fullres", "spacing": [0.5, 0.5, 0.5]}
    three.plan()
    before = three.contents()
    with pytest.raises(NnunetError, match="3d_fullres and 3d_fine ask for different data") as caught:
        three.preprocess("3d_fullres", "3d_fine")
    assert "data_identifier" in caught.value.text()
    assert three.contents() == before


def test_configurations_that_the_plans_lack_are_skipped(three: Any) -> None:
    result = three.preprocess("2d", "3d_fullres", "3d_lowres")
    assert [c.name for c in result.configurations] == ["2d", "3d_fullres"]
    assert result.skipped == ("3d_lowres",) and "3d_lowres" in result.summary()
    with pytest.raises(NnunetError, match="3d_ful") as caught:
        three.preprocess("3d_ful")
    assert "3d_fullres" in caught.value.text()


def test_numbers_of_processes_belong_to_configurations(three: Any) -> None:
    with pytest.raises(NnunetError, match="numbers of processes"):
        three.preprocess("2d", "3d_fullres", processes=(1, 2, 3))


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize("identifier", ["", "..", "../other", "a/b", "gt_segmentations", "/tmp/x"])
def test_data_folder_must_be_a_plain_name(three: Any, identifier: str) -> None:
    three.plans["configurations"]["3d_fullres"]["data_identifier"] = identifier
    three.plan()
    before = three.contents(three.root)
    with pytest.raises(NnunetError, match="data_identifier"):
        three.preprocess()
    assert three.contents(three.root) == before


def test_cases_that_would_overwrite_each_other(three: Any) -> None:
    three.add("a1_seg")
    with pytest.raises(NnunetError, match="a1, a1_seg"):
        three.preprocess()


def test_case_names_of_the_table_must_be_file_names(three: Any) -> None:
    three.description["dataset"] = {"up/../../a": {"images": [str(three.image("a1"))], "label": str(three.label("a1"))}}
    three.describe()
    with pytest.raises(NnunetError, match=r"up/\.\./\.\./a"):
        three.preprocess()


def test_labels_that_do_not_fit_the_stored_type(three: Any) -> None:
    three.description["labels"]["huge"] = 40_000
    three.describe()
    with pytest.raises(NnunetError, match="too large") as caught:
        three.preprocess()
    assert "40000" in caught.value.text()


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("preprocessor_name", "DefaultPreproces", "DefaultPreprocessor"),
        ("normalization_schemes", ["ZScoreNormalisation"], "ZScoreNormalization"),
        ("resampling_fn_data", "resample_data_or_seg_to_shap", "resample_data_or_seg_to_shape"),
        ("resampling_fn_seg", "no_resampling", "no_resampling_hack"),
        ("resampling_fn_data_kwargs", {"is_seg": False, "ordr": 3}, "ordr"),
    ],
)
def test_unknown_names_in_plans_are_found_before_any_work(three: Any, key: str, value: Any, text: str) -> None:
    three.preprocess()
    before = three.contents()
    three.plans["configurations"]["3d_fullres"][key] = value
    three.plan()
    with pytest.raises(NnunetError) as caught:
        three.preprocess()
    assert text in caught.value.text()
    assert {n: c for n, c in three.contents().items() if n != "nnUNetPlans.json"} == {
        n: c for n, c in before.items() if n != "nnUNetPlans.json"
    }
