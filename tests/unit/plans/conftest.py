from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[3].parent / "shared" / "golden"))


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each recorded plans file or fingerprint, whichever and however many there are."""
    marks = {"golden_plans": "label_manager", "golden_fingerprint": "shapes_after_crop"}
    for name in set(marks) & set(metafunc.fixturenames):
        files = [f for f in sorted(GOLDEN.rglob("*.json")) if marks[name] in (read(f) or ())]
        metafunc.parametrize(name, files, ids=lambda f: str(f.relative_to(GOLDEN)))


CONFIGURATION: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [32, 64, 64],
    "median_image_size_in_voxels": [30.0, 60.5, 61.0],
    "spacing": [3.0, 1, 1.0],
    "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
    "use_mask_for_norm": [False, True],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [32, 64, 96],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            "n_conv_per_stage": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
    "batch_dice": False,
}
INTENSITIES = {
    "max": 1000.0,
    "mean": 100.5,
    "median": 90,
    "min": -200.0,
    "percentile_00_5": -150.0,
    "percentile_99_5": 600.0,
    "std": 120.0,
}


@pytest.fixture
def plans_data() -> dict[str, Any]:
    """A valid plans file with one configuration; the test may change it."""
    return copy.deepcopy(
        {
            "dataset_name": "Dataset001_Test",
            "plans_name": "nnUNetPlans",
            "original_median_spacing_after_transp": [3.0, 1.0, 1],
            "original_median_shape_after_transp": [30, 60, 61],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [2, 0, 1],
            "transpose_backward": [1, 2, 0],
            "configurations": {"3d_fullres": CONFIGURATION},
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {"0": INTENSITIES, "1": INTENSITIES},
        }
    )


@pytest.fixture
def legacy_configuration() -> dict[str, Any]:
    """The same configuration as nnU-Net 2.0 wrote it."""
    legacy = copy.deepcopy(CONFIGURATION)
    network = legacy.pop("architecture")["arch_kwargs"]
    return legacy | {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 96,
        "conv_kernel_sizes": network["kernel_sizes"],
        "pool_op_kernel_sizes": network["strides"],
        "n_conv_per_stage_encoder": network["n_conv_per_stage"],
        "n_conv_per_stage_decoder": network["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
    }
