"""Pictures of a dataset, as users ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.io import imread

from nnunet_pt.cli import plot_overlay_pngs


@pytest.fixture
def dataset(small: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for variable, folder in (("raw", "raw"), ("preprocessed", "preprocessed"), ("results", "results")):
        monkeypatch.setenv(f"nnUNet_{variable}", str(small.root / folder))
    for name in ("one", "two"):
        images = np.random.default_rng(0).normal(size=(1, 6, 8, 9)).astype(np.float32)
        small.add(name, list(images))
    return small


def draw(target: Path, *options: str) -> int:
    return plot_overlay_pngs.main(["-d", "7", "-o", str(target), "-np", "1", "--no_pbar", *options])


def test_raw_and_preprocessed(dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw(tmp_path / "raw_png", "--use_raw") == 0
    assert f"2 overlays in {tmp_path / 'raw_png'}" in capsys.readouterr().out
    assert imread(tmp_path / "raw_png" / "two.png").shape == (8, 9, 4)
    assert draw(tmp_path / "png") == 1
    assert "nnUNetv2_preprocess with -c 3d_fullres" in capsys.readouterr().err
    dataset.preprocess()
    assert draw(tmp_path / "png") == 0
    assert sorted(p.name for p in (tmp_path / "png").iterdir()) == ["one.png", "two.png"]


def test_intensity(dataset: Any, tmp_path: Path) -> None:
    del dataset
    for factor in ("0.2", "2"):
        assert draw(tmp_path / factor, "--use_raw", "-overlay_intensity", factor) == 0
    weak, strong = (imread(tmp_path / factor / "one.png")[..., :3].astype(int) for factor in ("0.2", "2"))
    assert np.ptp(weak, axis=2).mean() < np.ptp(strong, axis=2).mean()


def test_a_case_that_fails_is_named_and_the_others_are_drawn(
    dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.image("one").write_bytes(b"no image")
    assert draw(tmp_path / "png", "--use_raw") == 1
    shown = capsys.readouterr()
    assert "1 case failed: one" in shown.err
    assert "one_0000.nii.gz" in shown.out
    assert sorted(p.name for p in (tmp_path / "png").iterdir()) == ["two.png"]


@pytest.mark.parametrize("options", [["-channel_idx", "1"], ["-channel_idx", "x"], ["-overlay_intensity", "-1"]])
def test_arguments_that_cannot_be_meant(dataset: Any, tmp_path: Path, options: list[str]) -> None:
    del dataset
    try:
        assert draw(tmp_path / "png", "--use_raw", *options) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert not (tmp_path / "png").exists()
