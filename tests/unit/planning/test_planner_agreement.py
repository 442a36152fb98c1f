"""The planners give nnU-Net's numbers: recorded plans, and the rows of its published behaviour."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.settings import Workspace
from nnunet_pt.planning.experiment import Design, dataset_geometry, plan_configurations
from nnunet_pt.planning.planner import PlanRequest, plan_experiment
from nnunet_pt.planning.presets import PLANNERS
from nnunet_pt.plans.fingerprint import Fingerprint


def rounded(value: Any) -> Any:
    """Floats to 12 digits, so that another version of numpy may differ in the last."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def test_recorded_plans_are_made_again(golden_case: tuple[Path, str], workspace: Workspace, image_bytes: bytes) -> None:
    folder, planner = golden_case
    raw, preprocessed = workspace.raw / folder.name, workspace.preprocessed / folder.name
    description = json.loads((folder / "dataset.json").read_text())
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    for channel in range(len(description["channel_names"])):
        (raw / "imagesTr" / f"case_{channel:04d}.nii.gz").write_bytes(image_bytes)
    (raw / "labelsTr" / "case.nii.gz").write_bytes(image_bytes)
    preprocessed.mkdir()
    description.pop("dataset", None)  # its files are not here, and planning needs only one to choose the reader
    (raw / "dataset.json").write_text(json.dumps(description))
    shutil.copyfile(folder / "dataset_fingerprint.json", preprocessed / "dataset_fingerprint.json")
    if description["file_ending"] != ".nii.gz":
        pytest.skip("made for another file format")

    plan_experiment(PlanRequest(dataset=folder.name, planner=planner), workspace)

    name = f"{PLANNERS[planner].plans_name}.json"
    made = json.loads((preprocessed / name).read_text())
    recorded = json.loads((folder / name).read_text())
    assert json.dumps(rounded(made)) == json.dumps(rounded(recorded))


def even_median(*axes: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes whose median has halves."""
    return tuple(int(a) for a in axes), tuple(int(2 * a) - int(a) for a in axes)


HIPPOCAMPUS = even_median(36, 50, 35)
IGNORE = even_median(36.5, 50.5, 36)
ROWS: list[tuple[Any, ...]] = [
    # cases, spacing, median shape, entries in labels; planner; 2d batch, patch; 3d batch, patch
    (4, 1.0, even_median(155, 240, 240), 5, "ExperimentPlanner", 27, (256, 256), 2, (96, 160, 160)),
    (4, 1.0, even_median(155, 240, 240), 5, "nnUNetPlannerResEncM", 50, (256, 256), 2, (96, 160, 160)),
    (4, 1.0, even_median(155, 240, 240), 5, "nnUNetPlannerResEncL", 140, (256, 256), 2, (128, 224, 224)),
    (4, 1.0, even_median(155, 240, 240), 5, "nnUNetPlannerResEncXL", 207, (256, 256), 3, (160, 256, 256)),
    (110, 1.0, HIPPOCAMPUS, 3, "ExperimentPlanner", 155, (56, 40), 4, (40, 56, 40)),
    (110, 1.0, HIPPOCAMPUS, 3, "nnUNetPlannerResEncM", 1618, (56, 40), 58, (40, 56, 40)),
    (110, 1.0, HIPPOCAMPUS, 3, "nnUNetPlannerResEncL", 3094, (56, 40), 77, (40, 56, 40)),
    (110, 1.0, HIPPOCAMPUS, 3, "nnUNetPlannerResEncXL", 3094, (56, 40), 77, (40, 56, 40)),
    (20, 1.0, IGNORE, 4, "ExperimentPlanner", 30, (56, 40), 2, (40, 56, 40)),
    (20, 1.0, IGNORE, 4, "nnUNetPlannerResEncM", 592, (56, 40), 15, (40, 56, 40)),
    (20, 1.0, IGNORE, 4, "nnUNetPlannerResEncXL", 592, (56, 40), 15, (40, 56, 40)),
    (4, 3.0, even_median(87, 101, 122), 62, "ExperimentPlanner", 15, (112, 128), 2, (96, 112, 128)),
    (4, 3.0, even_median(87, 101, 122), 62, "nnUNetPlannerResEncM", 209, (112, 128), 3, (96, 112, 128)),
    (4, 3.0, even_median(87, 101, 122), 62, "nnUNetPlannerResEncL", 299, (112, 128), 3, (96, 112, 128)),
    (20, (999.0, 1.0, 1.0), even_median(1, 138.5, 146), 2, "ExperimentPlanner", 2, (160, 160), None, None),
    (20, (999.0, 1.0, 1.0), even_median(1, 138.5, 146), 2, "nnUNetPlannerResEncL", 16, (160, 160), None, None),
]


@pytest.mark.parametrize(("cases", "mm", "shapes", "labels", "planner", "b2", "p2", "b3", "p3"), ROWS)
def test_published_numbers(
    cases: int, mm: Any, shapes: Any, labels: int, planner: str, b2: int, p2: Any, b3: int | None, p3: Any
) -> None:
    spacing = mm if isinstance(mm, tuple) else (mm,) * 3
    configurations = configure(planner, (spacing, spacing), shapes, labels, cases)
    assert (configurations["2d"]["batch_size"], tuple(configurations["2d"]["patch_size"])) == (b2, p2)
    assert "3d_lowres" not in configurations
    if b3 is None:
        assert list(configurations) == ["2d"]
    else:
        full = configurations["3d_fullres"]
        assert (full["batch_size"], tuple(full["patch_size"])) == (b3, p3)


def configure(planner: str, spacings: Any, shapes: Any, labels: int, cases: int) -> dict[str, Any]:
    fingerprint = fingerprint_of(spacings, shapes)
    preset = PLANNERS[planner]
    design = Design(
        preset=preset,
        gpu_memory_gb=preset.gpu_memory_gb,
        preprocessor_name="DefaultPreprocessor",
        plans_name=preset.plans_name,
        num_outputs=labels,
        normalization_schemes=("ZScoreNormalization",),
        use_mask_for_norm=(False,),
    )
    return plan_configurations(design, dataset_geometry(fingerprint, None), cases)


def fingerprint_of(spacings: Any, shapes: Any) -> Fingerprint:
    return Fingerprint(
        spacings=tuple(map(tuple, spacings)),
        shapes_after_crop=tuple(map(tuple, shapes)),
        median_relative_size_after_cropping=1.0,
        foreground_intensity_properties_per_channel={},
    )


def test_anisotropic_data_after_a_transposition() -> None:
    """Thick slices along the middle axis; a tenth of the cases is finer, and that becomes the target."""
    spacings = [(1.0, 6.5, 1.0)] * 9 + [(1.0, 5.3, 1.0)] * 2
    shapes = [(139, 22, 158)] * 11
    geometry = dataset_geometry(fingerprint_of(spacings, shapes), None)
    assert geometry.target_spacing.tolist() == [5.3, 1.0, 1.0]
    assert geometry.transpose_forward == (1, 0, 2)
    assert geometry.transpose_backward == (1, 0, 2)
    assert geometry.median_shape.tolist() == [27, 139, 158]


def test_the_finer_spacing_never_passes_the_other_axes() -> None:
    geometry = dataset_geometry(
        fingerprint_of([(5.0, 1.0, 1.0)] * 8 + [(0.2, 1.0, 1.0)] * 2, [(20, 200, 200)] * 10), None
    )
    assert geometry.target_spacing.tolist() == [1.00001, 1.0, 1.0]


@pytest.mark.parametrize(
    ("spacing", "shape"),
    [((3.0, 1.0, 1.0), (20, 200, 200)), ((5.0, 1.0, 1.0), (67, 200, 200))],
    ids=["not coarse enough", "too many slices"],
)
def test_other_data_take_the_median(spacing: Any, shape: Any) -> None:
    finer = (0.5, 1.0, 1.0)
    geometry = dataset_geometry(fingerprint_of([spacing] * 8 + [finer] * 2, [shape] * 10), None)
    assert geometry.target_spacing.tolist() == list(spacing)


def test_three_different_axes_are_reordered() -> None:
    geometry = dataset_geometry(fingerprint_of([(1.0, 2.0, 3.0)], [(10, 20, 30)]), None)
    assert geometry.transpose_forward == (2, 0, 1)
    assert geometry.transpose_backward == (1, 2, 0)
    assert geometry.original_shape.tolist() == [30, 10, 20]


@pytest.mark.parametrize("anisotropic", [False, True])
def test_large_images_get_a_cascade(anisotropic: bool) -> None:
    spacing = (2.5, 0.8, 0.8) if anisotropic else (0.8, 0.8, 0.8)
    shape = (200, 512, 512) if anisotropic else (512, 512, 512)
    configurations = configure("ExperimentPlanner", [spacing], [shape], 3, 100)
    assert list(configurations) == ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    low, full = configurations["3d_lowres"], configurations["3d_fullres"]
    assert (low["batch_dice"], full["batch_dice"]) == (False, True)
    assert low["next_stage"] == "3d_cascade_fullres"
    assert low["spacing"][1] > full["spacing"][1]
    assert covers(low) >= 0.25 > covers(full)


def covers(configuration: dict[str, Any]) -> float:
    share = 1.0
    for patch, median in zip(configuration["patch_size"], configuration["median_image_size_in_voxels"], strict=True):
        share *= patch / median
    return share


@pytest.mark.parametrize("planner", list(PLANNERS))
def test_every_planner_plans(planner: str) -> None:
    configurations = configure(planner, [(1.0, 1.0, 1.0)], [(60, 70, 80)], 3, 10)
    resampling = configurations["2d"]["resampling_fn_data"]
    wanted = {"torchres": "resample_torch_fornnunet", "noResampling": "no_resampling_hack"}
    assert resampling == next((v for k, v in wanted.items() if k in planner), "resample_data_or_seg_to_shape")
    own_data = planner in ("ExperimentPlanner",) or any(k in planner for k in wanted)
    expected = f"{PLANNERS[planner].plans_name}_2d" if own_data else "nnUNetPlans_2d"
    assert configurations["2d"]["data_identifier"] == expected


def test_resampling_arguments_of_the_torch_variants() -> None:
    arguments: Callable[[str], Any] = lambda name: dict(PLANNERS[name].resampling.seg.kwargs)  # noqa: E731
    never = {"is_seg": True, "force_separate_z": False, "memefficient_seg_resampling": False}
    assert arguments("nnUNetPlanner_torchres") == never
    assert list(arguments("nnUNetPlannerResEncL_torchres_sepz").items()) == [
        ("is_seg", True),
        ("force_separate_z", None),
        ("memefficient_seg_resampling", False),
        ("separate_z_anisotropy_threshold", 3),
    ]
