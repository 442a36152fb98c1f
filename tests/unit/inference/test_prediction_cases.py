"""Finding the images that are to be predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from nnunet_pt.core.errors import PredictionError
from nnunet_pt.inference.cases import Outputs, Work, find_work


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a folder of empty files."""

    def make(*names: str, folder: str = "images") -> Path:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        for name in names:
            (path / name).touch()
        return path

    return make


def outputs(tmp_path: Path, *names: str, probabilities: bool = False) -> Outputs:
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return Outputs(folder=folder, file_ending=".nii.gz", probabilities=probabilities)


def names(work: Work) -> list[str]:
    return [case.identifier for case in work.cases]


def channels_of(cases: Iterable[str], number: int = 1) -> list[str]:
    return [f"{case}_{channel:04d}.nii.gz" for case in cases for channel in range(number)]


def test_cases_are_sorted_and_have_their_channels_in_order(tmp_path: Path, images: Callable[..., Path]) -> None:
    folder = images(*channels_of(("b", "a_0001"), 2))
    work = find_work([folder], outputs(tmp_path), num_channels=2)
    assert names(work) == ["a_0001", "b"]
    assert work.cases[1].images == (folder / "b_0000.nii.gz", folder / "b_0001.nii.gz")


def test_single_images_and_several_folders(tmp_path: Path, images: Callable[..., Path]) -> None:
    first, second = images(*channels_of("ab")), images(*channels_of("cd"), folder="more")
    assert names(find_work([first / "b_0000.nii.gz"], outputs(tmp_path), num_channels=1)) == ["b"]
    assert names(find_work([first, second / "d_0000.nii.gz"], outputs(tmp_path), num_channels=1)) == ["a", "b", "d"]


def test_equal_names_from_different_folders_are_refused(tmp_path: Path, images: Callable[..., Path]) -> None:
    first, second = images(*channels_of("a")), images(*channels_of("a"), folder="more")
    with pytest.raises(PredictionError, match=r"Two images are called a_0000\.nii\.gz"):
        find_work([first, second], outputs(tmp_path), num_channels=1)
    assert names(find_work([first, first / "a_0000.nii.gz"], outputs(tmp_path), num_channels=1)) == ["a"]


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7])
def test_parts_share_the_cases_whatever_is_finished(
    tmp_path: Path, images: Callable[..., Path], num_parts: int
) -> None:
    folder = images(*channels_of("abcdef"), "e_0001.nii.gz")  # e has a channel too many
    there = outputs(tmp_path, "b.nii.gz", "c.nii.gz")
    parts = [
        find_work([folder], there, num_channels=1, num_parts=num_parts, part_id=part, skip_existing=True)
        for part in range(num_parts)
    ]
    for number, part in enumerate(parts):
        assert sorted([*names(part), *part.unusable, *part.finished]) == list("abcdef")[number::num_parts]
    assert sorted(name for part in parts for name in part.finished) == ["b", "c"]
    assert [name for part in parts for name in part.unusable] == ["e"]


def test_existing_predictions_are_only_skipped_if_asked_for(tmp_path: Path, images: Callable[..., Path]) -> None:
    folder = images(*channels_of("ab"))
    there = outputs(tmp_path, "a.nii.gz")
    assert names(find_work([folder], there, num_channels=1)) == ["a", "b"]
    assert names(find_work([folder], there, num_channels=1, skip_existing=True)) == ["b"]
    assert names(find_work([folder], there, num_channels=1, skip_existing=True, outdated={"a"})) == ["a", "b"]


def test_a_prediction_without_wanted_probabilities_is_not_finished(tmp_path: Path, images: Callable[..., Path]) -> None:
    folder = images(*channels_of("ab"))
    there = outputs(tmp_path, "a.nii.gz", "b.nii.gz", "b.npz", probabilities=True)
    assert names(find_work([folder], there, num_channels=1, skip_existing=True)) == ["a"]


def test_incomplete_cases_cost_only_themselves(tmp_path: Path, images: Callable[..., Path]) -> None:
    folder = images(*channels_of("ac", 3), "b_0000.nii.gz", "b_0002.nii.gz", "stray.nii.gz", "notes.txt")
    work = find_work([folder], outputs(tmp_path), num_channels=3)
    assert names(work) == ["a", "c"]
    assert list(work.unusable) == ["b"] and "b_0001.nii.gz" in work.unusable["b"]
    assert [path.name for path in work.ignored] == ["stray.nii.gz"]


def test_a_single_case_that_lacks_the_last_channel(tmp_path: Path, images: Callable[..., Path]) -> None:
    folder = images(*channels_of("a", 3))
    with pytest.raises(PredictionError, match="3 images for the 4 channels"):
        find_work([folder], outputs(tmp_path), num_channels=4)


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ([], ["no files", "<case>_0000.nii.gz"]),
        (["a.nii.gz", "b.nii.gz"], ["a.nii.gz, b.nii.gz", "a.nii.gz -> a_0000.nii.gz"]),
        (["a_0000.nii", "x.txt"], [".nii, .txt", "convert the images to .nii.gz"]),
        (["a_0000.nii.gz", "a_0001.nii.gz"], ["case a: more images than the 1 channel: a_0001.nii.gz"]),
        (["a_0001.nii.gz"], ["case a: no image a_0000.nii.gz"]),
    ],
)
def test_folders_without_usable_cases(
    tmp_path: Path, images: Callable[..., Path], files: list[str], parts: list[str]
) -> None:
    folder = images(*files)
    with pytest.raises(PredictionError) as raised:
        find_work([folder], outputs(tmp_path), num_channels=1)
    assert all(part in raised.value.text() for part in [str(folder), *parts]), raised.value.text()


def test_input_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match="nowhere does not exist"):
        find_work([tmp_path / "nowhere"], outputs(tmp_path), num_channels=1)


def test_hidden_files_are_no_images(tmp_path: Path, images: Callable[..., Path]) -> None:
    folder = images(*channels_of("a"), "._a_0000.nii.gz", ".partial-12-ab-a_0000.nii.gz")
    assert names(find_work([folder], outputs(tmp_path), num_channels=1)) == ["a"]
