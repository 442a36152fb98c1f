from __future__ import annotations

from typing import Any

import pytest

from nnunet_pt.core.errors import PlansError, UnknownNameError
from nnunet_pt.networks.build import NETWORKS, build_network, named_architecture, with_batch_norm
from nnunet_pt.networks.residual_unet import RESENC_L
from nnunet_pt.plans.plans import Architecture

PLAIN = {
    "n_stages": 3,
    "features_per_stage": [2, 3, 4],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": 3,
    "strides": [1, 2, 2],
    "n_conv_per_stage": 1,
    "n_conv_per_stage_decoder": 1,
    "norm_op": "torch.nn.InstanceNorm3d",
    "norm_op_kwargs": {"affine": True},
    "nonlin": "torch.nn.ReLU",
}
PRIMUS = {"embed_dim": 72, "eva_depth": 1, "eva_numheads": 2}


def finding(kwargs: dict[str, Any], name: str = "PlainConvUNet", patch: tuple[int, ...] | None = None) -> str:
    """The text of the error for these arguments."""
    architecture = Architecture(network_class_name=name, arch_kwargs=kwargs, requires_import=())
    with pytest.raises(PlansError) as caught:
        build_network(architecture, input_channels=1, num_outputs=2, deep_supervision=True, patch_size=patch)
    return str(caught.value)


def without(kwargs: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k != key}


@pytest.mark.parametrize("key", ["n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides",
                                 "n_conv_per_stage", "n_conv_per_stage_decoder"])  # fmt: skip
def test_a_missing_argument_is_named(key: str) -> None:
    assert f"{key}: is missing" in finding(without(PLAIN, key))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"features_per_stage": [2, 3]}, "features_per_stage: has 2 entries, expected 3"),
        ({"features_per_stage": [2, 3, 0]}, "features_per_stage: is a list [2, 3, 0]"),
        ({"n_conv_per_stage_decoder": [1, 1, 1]}, "n_conv_per_stage_decoder: has 3 entries, expected 2"),
        ({"kernel_sizes": [[3, 3, 3], [3, 3], 3]}, "kernel_sizes[1]: is a list [3, 3], expected 3 whole numbers"),
        ({"kernel_sizes": [3, 3, 2]}, "kernel_sizes[2]: is [2, 2, 2], expected odd numbers"),
        ({"strides": [1, "two", 2]}, "strides[1]: is a text 'two', expected 3 whole numbers"),
        ({"strides": "2"}, "strides: is a text '2', expected a list"),
        ({"n_stages": 1}, "n_stages: is 1, expected a whole number, at least 2"),
        ({"conv_op": "torch.nn.Conv4d"}, "'torch.nn.Conv4d', which is not one of the layers (did you mean"),
        ({"conv_op": "os.system"}, "conv_op: is 'os.system', which is not one of the layers (known: torch.nn.Conv2d"),
        ({"conv_op": None}, "conv_op: is missing"),
        ({"norm_op": "torch.nn.InstanceNorm2d"}, "norm_op: is made for 2D, but conv_op for 3D"),
        ({"norm_op_kwargs": {"epsilon": 1}}, "norm_op_kwargs: does not fit torch.nn.InstanceNorm3d: "),
        ({"norm_op_kwargs": [1]}, "norm_op_kwargs: is a list [1], expected an object"),
        ({"dropout_op": "torch.nn.Dropout", "dropout_op_kwargs": {"p": 7}}, "dropout_op_kwargs: does not fit"),
        ({"nonlin": 3}, "nonlin: is 3, expected a text or null"),
        ({"conv_bias": "yes"}, "conv_bias: is a text 'yes', expected true or false"),
        ({"n_blocks_per_stage": 2}, "n_blocks_per_stage: is not an argument of this network (did you mean n_conv"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_with_what_was_expected(change: dict[str, Any], problem: str) -> None:
    assert problem in finding(PLAIN | change)


def test_all_findings_come_in_one_error() -> None:
    text = finding(PLAIN | {"strides": [1], "conv_bias": 0, "nonlin": "torch.nn.LeakyRelu", "speed": 2})
    for part in ("strides:", "conv_bias:", "did you mean torch.nn.LeakyReLU", "speed:"):
        assert part in text


@pytest.mark.parametrize(
    ("patch", "problem"),
    [
        ((8, 8, 6), "strides: multiply to [4, 4, 4], which does not divide the patch size [8, 8, 6]"),
        ((8, 8), "conv_op: is 3D, but the patch size is [8, 8]"),
    ],
)
def test_a_patch_that_does_not_fit_the_network_is_said(patch: tuple[int, ...], problem: str) -> None:
    assert problem in finding(PLAIN, patch=patch)


@pytest.mark.parametrize(
    ("change", "patch", "problem"),
    [
        ({}, None, "input_shape: is missing, and no patch size is given"),
        ({}, (16, 16, 20), "patch size: is [16, 16, 20], expected multiples of [8, 8, 8]"),
        ({}, (16, 16), "patch size: is [16, 16], expected multiples of"),
        ({"embed_dim": 70}, (16, 16, 16), "embed_dim: is 70, expected a multiple of 12 for 2 heads"),
        ({"patch_embed_size": [8, 8]}, (16, 16, 16), "patch_embed_size: has 2 entries, expected 3"),
        ({"patch_embed_size": 6}, (12, 12, 12), "patch_embed_size: is [6, 6, 6], expected powers of 2"),
        ({"patch_embed_size": 1}, (12, 12, 12), "patch_embed_size: is [1, 1, 1], expected powers of 2"),
        ({"drop_path_rate": 1}, (16, 16, 16), "drop_path_rate: is 1, expected a number from 0 to below 1"),
        ({"patch_drop_rate": 0.7}, (16, 16, 16), "patch_drop_rate: is above 0, but tokens are dropped in pre-training"),
        ({"mlp_ratio": "x"}, (16, 16, 16), "mlp_ratio: is a text 'x', expected a number above 0"),
        ({"mlp_ratio": 0}, (16, 16, 16), "mlp_ratio: is 0, expected a number above 0"),
        ({"init_values": "x"}, (16, 16, 16), "init_values: is a text 'x', expected a number or null"),
        ({"scale_attn_inner": 1}, (16, 16, 16), "scale_attn_inner: is 1, expected true or false"),
        ({"eva_dept": 3}, (16, 16, 16), "eva_dept: is not an argument of this network (did you mean eva_depth"),
    ],
)
def test_a_wrong_argument_of_primus_is_named(
    change: dict[str, Any], patch: tuple[int, ...] | None, problem: str
) -> None:
    assert problem in finding(PRIMUS | change, "Primus", patch)


def test_the_later_versions_of_primus_have_tokens_of_one_size() -> None:
    text = finding(PRIMUS | {"patch_embed_size": 16}, "PrimusV2", (16, 16, 16))
    assert "patch_embed_size: is [16, 16, 16], expected [8, 8, 8] for this version" in text


def test_an_unknown_network_is_answered_with_similar_names() -> None:
    architecture = Architecture(network_class_name="my.package.PlainConvUnet", arch_kwargs=PLAIN, requires_import=())
    with pytest.raises(UnknownNameError, match=r"did you mean PlainConvUNet"):
        build_network(architecture, input_channels=1, num_outputs=2, deep_supervision=True)
    with pytest.raises(UnknownNameError, match="PrimusXL"):
        named_architecture("PrimusXL")


def test_values_that_only_the_caller_can_know_are_passed_over() -> None:
    given = PLAIN | {"input_channels": 7, "num_classes": 9, "deep_supervision": False}
    architecture = Architecture(network_class_name="PlainConvUNet", arch_kwargs=given, requires_import=())
    network: Any = build_network(architecture, input_channels=2, num_outputs=3, deep_supervision=True)
    state = network.state_dict()
    assert state["encoder.stages.0.0.convs.0.conv.weight"].shape[1] == 2
    assert state["decoder.seg_layers.0.weight"].shape[0] == 3
    assert network.deep_supervision is True


def test_arguments_in_the_plans_go_before_those_of_a_named_network() -> None:
    small = {"features_per_stage": [2] * 6, "n_blocks_per_stage": 1}
    architecture = Architecture(network_class_name="ResEncL", arch_kwargs=small, requires_import=())
    network = build_network(architecture, input_channels=1, num_outputs=2, deep_supervision=True)
    full = Architecture(network_class_name="ResidualEncoderUNet", arch_kwargs=RESENC_L | small, requires_import=())
    same = build_network(full, input_channels=1, num_outputs=2, deep_supervision=True)
    assert list(network.state_dict()) == list(same.state_dict())


def test_only_networks_with_convolutions_can_have_batch_norm() -> None:
    with pytest.raises(PlansError, match="conv_op: is None"):
        with_batch_norm(named_architecture("PrimusS"))


def test_the_table_has_every_network_that_plans_may_name() -> None:
    primus = {f"Primus{v}{s}" for v in ("", "V2", "V3") for s in ("", "S", "B", "M", "L")}
    assert set(NETWORKS) == {"PlainConvUNet", "ResidualEncoderUNet", "ResEncL", "PrimusX"} | primus
