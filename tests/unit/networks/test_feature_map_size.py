from __future__ import annotations

import json
import os
from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest

from nnunet_pt.core.errors import PlansError, UnknownNameError
from nnunet_pt.networks.memory import feature_map_size
from nnunet_pt.plans.plans import Architecture

GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[3].parent / "shared" / "golden"))
PATH = "dynamic_network_architectures.architectures.unet."
KEYS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}


def unet(name: str, dimensions: int, features: Any, encoder: Any, decoder: Any, **more: Any) -> Architecture:
    stages = len(features)
    kwargs = {
        "n_stages": stages,
        "features_per_stage": features,
        "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        KEYS[name]: encoder,
        "n_conv_per_stage_decoder": decoder,
    }
    return Architecture(network_class_name=PATH + name, arch_kwargs=kwargs | more, requires_import=())


THREE_D = [32, 64, 128, 256, 320, 320]
TWO_D = [32, 64, 128, 256, 512, 512, 512]


@pytest.mark.parametrize(
    ("architecture", "patch", "size"),
    [
        (unet("PlainConvUNet", 3, THREE_D, [2] * 6, [2] * 5), (128,) * 3, 452_796_416),
        (unet("ResidualEncoderUNet", 3, THREE_D, [1, 3, 4, 6, 6, 6], [1] * 5), (128,) * 3, 557_420_544),
        (unet("PlainConvUNet", 2, TWO_D, [2] * 7, [2] * 6), (512,) * 2, 82_771_968),
        (unet("ResidualEncoderUNet", 2, TWO_D, [1, 3, 4, 6, 6, 6, 6], [1] * 6), (512,) * 2, 129_531_904),
    ],
)
def test_known_sizes(architecture: Architecture, patch: tuple[int, ...], size: int) -> None:
    assert feature_map_size(architecture, patch, 3) == size


def recorded() -> list[Any]:
    path = GOLDEN / "numeric" / "networks.json"
    if not path.is_file():
        return []
    return [
        pytest.param(network, literal_eval(patch), size, id=f"{name}-{patch}")
        for name, network in json.loads(path.read_text()).items()
        for patch, size in network["compute_conv_feature_map_size"].items()
    ]


@pytest.mark.parametrize(("network", "patch", "size"), recorded())
def test_recorded_sizes(network: dict[str, Any], patch: tuple[int, ...], size: int) -> None:
    kwargs = network["arch_kwargs"]
    architecture = Architecture(
        network_class_name=network["network_class_name"], arch_kwargs=kwargs, requires_import=()
    )
    assert feature_map_size(architecture, patch, kwargs["num_classes"]) == size


def test_counting_by_hand() -> None:
    # 8x8 -> stage 0: 2 convolutions of 4 channels; 4x4 -> 3 of 5; decoder at 8x8: 1 + transposed convolution; outputs
    plain = unet("PlainConvUNet", 2, [4, 5], [2, 3], [1])
    assert feature_map_size(plain, (8, 8), 7) == 64 * 4 * 2 + 16 * 5 * 3 + 64 * 4 * 2 + 64 * 7
    # stem; stage 0 without a projection; stage 1 with one
    residual = unet("ResidualEncoderUNet", 2, [4, 5], [1, 2], [1])
    assert feature_map_size(residual, (8, 8), 7) == 64 * 4 * 3 + 16 * 5 * (4 + 1) + 64 * 4 * 2 + 64 * 7


def test_a_network_without_a_decoder_has_no_outputs() -> None:
    # nnU-Net 2.8.1 plans batches of 51 patches of 184x8x188 and of 3,643 of 8x579 for such networks and 8 GB
    plain = unet("PlainConvUNet", 2, [32], [2], [])
    assert feature_map_size(plain, (8, 579), 7) == 8 * 579 * 32 * 2
    residual = unet("ResidualEncoderUNet", 2, [32], [1], [])
    assert feature_map_size(residual, (8, 579), 7) == 8 * 579 * 32 * 3


def test_a_single_number_stands_for_every_stage() -> None:
    one = unet("PlainConvUNet", 3, [8, 16, 32], 2, 1, strides=[1, 2, [2, 2, 2]])
    many = unet("PlainConvUNet", 3, [8, 16, 32], [2, 2, 2], [1, 1])
    assert feature_map_size(one, (16, 16, 16), 2) == feature_map_size(many, (16, 16, 16), 2)


def test_the_package_of_the_class_does_not_matter() -> None:
    network = unet("PlainConvUNet", 3, [8, 16], [2, 2], [2])
    moved = Architecture(network_class_name="PlainConvUNet", arch_kwargs=network.arch_kwargs, requires_import=())
    assert feature_map_size(network, (8, 8, 8), 2) == feature_map_size(moved, (8, 8, 8), 2)


def test_an_unknown_class_comes_with_a_suggestion() -> None:
    network = Architecture(network_class_name="my.nets.PlainConvUnet3d", arch_kwargs={}, requires_import=())
    with pytest.raises(UnknownNameError, match="did you mean PlainConvUNet"):
        feature_map_size(network, (8, 8, 8), 2)


def test_missing_and_wrong_arguments_are_all_told() -> None:
    network = unet("PlainConvUNet", 3, [8, 16], [2, 2, 2], "two")
    del network.arch_kwargs["strides"]  # type: ignore[attr-defined]
    with pytest.raises(PlansError) as caught:
        feature_map_size(network, (8, 8, 8), 2)
    text = str(caught.value)
    assert "strides: is missing" in text
    assert "n_conv_per_stage: has 3 entries, expected 2" in text
    assert "n_conv_per_stage_decoder: is a text 'two'" in text
