from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from nnunet_pt.networks.build import build_network, named_architecture
from nnunet_pt.networks.transformer import Block, TransformerSettings, rotary_angles, rotate
from nnunet_pt.plans.plans import Architecture

SMALL = {"embed_dim": 72, "eva_depth": 2, "eva_numheads": 2, "init_values": 0.1, "scale_attn_inner": True}
BLOCK = {
    *("gamma_1", "gamma_2", "attn.k_proj.weight"),
    *(f"{layer}.{kind}" for layer in ("norm1", "norm2", "attn.q_proj", "attn.v_proj", "attn.norm", "attn.proj",
                                      "mlp.fc1_g", "mlp.fc1_x", "mlp.norm", "mlp.fc2")
      for kind in ("weight", "bias")),
}  # fmt: skip
REST = {
    *("mask_token", "down_projection.proj.weight", "down_projection.proj.bias", "eva.pos_embed"),
    *(f"{layer}.{kind}" for layer in ("eva.norm", "up_projection.decode.0.0", "up_projection.decode.0.1",
                                      "up_projection.decode.1.0", "up_projection.decode.1.1", "up_projection.decode.2")
      for kind in ("weight", "bias")),
}  # fmt: skip


def primus(name: str = "Primus", **more: Any) -> Architecture:
    kwargs = SMALL | more if name in ("Primus", "PrimusV2", "PrimusV3") else more
    return Architecture(network_class_name=name, arch_kwargs=kwargs, requires_import=())


def build(
    architecture: Architecture, patch: tuple[int, ...] = (16, 16, 24), outputs: int = 3, channels: int = 1
) -> Any:
    return build_network(
        architecture, input_channels=channels, num_outputs=outputs, deep_supervision=False, patch_size=patch
    )


def on_meta(architecture: Architecture, patch: tuple[int, ...], outputs: int) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = build(architecture, patch, outputs)
    return network


@pytest.mark.parametrize(
    ("name", "keys", "parameters"),
    [
        ("PrimusS", 292, 23_900_943),
        ("PrimusB", 292, 93_321_203),
        ("PrimusM", 384, 146_784_123),
        ("PrimusL", 568, 325_774_851),
        ("PrimusV2S", 362, 24_673_935),
        ("PrimusV3S", 377, 71_110_582),
    ],
)
def test_presets_have_as_many_names_and_parameters(name: str, keys: int, parameters: int) -> None:
    network = on_meta(named_architecture(name), (96, 96, 96), 3)
    assert len(network.state_dict()) == keys
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_tensors_have_the_names_that_nnunet_gives_them() -> None:
    state = build(primus()).state_dict()
    assert set(state) == REST | {f"eva.blocks.{b}.{n}" for b in range(2) for n in BLOCK}
    assert state["eva.pos_embed"].shape == (1, 2 * 2 * 3, 72)
    assert state["eva.blocks.0.mlp.fc1_g.weight"].shape == (192, 72)


@pytest.mark.parametrize(
    ("change", "absent", "extra"),
    [
        ({"init_values": None}, {"gamma_1", "gamma_2"}, set()),
        ({"scale_attn_inner": False}, {"attn.norm.weight", "attn.norm.bias"}, set()),
        ({"num_register_tokens": 4}, set(), {"register_tokens"}),
        ({"use_rot_pos_emb": False}, set(), set()),
    ],
)
def test_options_add_and_remove_tensors(change: dict[str, Any], absent: set[str], extra: set[str]) -> None:
    network = build(primus(**change))
    assert set(network.state_dict()) == REST | {f"eva.blocks.{b}.{n}" for b in range(2) for n in BLOCK - absent} | extra
    assert network(torch.randn(1, 1, 16, 16, 24)).shape == (1, 3, 16, 16, 24)


@pytest.mark.parametrize(
    ("embed_dim", "outputs", "widths"),
    [(396, 1, [64, 8]), (396, 2, [88, 16]), (396, 5, [120, 32]), (396, 14, [160, 64]),
     (864, 1, [112, 16]), (864, 3, [168, 32]), (792, 3, [152, 32]), (1056, 3, [192, 32])],
)  # fmt: skip
def test_widths_of_the_decoder_follow_from_the_number_of_outputs(
    embed_dim: int, outputs: int, widths: list[int]
) -> None:
    state = on_meta(primus(embed_dim=embed_dim, eva_numheads=1), (16, 16, 16), outputs).state_dict()
    assert [state[f"up_projection.decode.{i}.0.weight"].shape[1] for i in (0, 1)] == widths
    assert state["up_projection.decode.2.weight"].shape[1] == outputs


def test_anisotropic_tokens_are_upsampled_in_the_reverse_of_their_order() -> None:
    network = build(primus(patch_embed_size=[2, 8, 4]), (4, 16, 16))
    strides = [m.stride for m in network.modules() if isinstance(m, nn.ConvTranspose3d)]
    assert strides == [(1, 2, 1), (1, 2, 2), (2, 2, 2)]
    assert network(torch.randn(1, 1, 4, 16, 16)).shape == (1, 3, 4, 16, 16)


def test_nnssl_arguments_of_pretraining_build_the_network_that_continues() -> None:
    pretraining = {
        "input_channels": 1,
        "embed_dim": 72,
        "patch_embed_size": [8, 8, 8],
        "output_channels": 1,
        "input_shape": [160, 160, 160],
        "encoder_eva_depth": 2,
        "encoder_eva_numheads": 2,
        "decoder_eva_depth": 1,
        "decoder_eva_numheads": 2,
        "patch_drop_rate": 0.75,
        "drop_path_rate": 0.2,
        "attn_drop_rate": 0,
        "init_values": [0.1, 0.1],
        "scale_attn_inner": True,
    }
    network = build(primus("PrimusX", **pretraining), channels=2)
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in build(primus(), channels=2).state_dict().items()
    }
    assert [b.drop_path for b in network.eva.blocks] == [0, 0.2]
    del pretraining["drop_path_rate"]
    assert [b.drop_path for b in build(primus("PrimusX", **pretraining)).eva.blocks] == [0, 0.2]


def test_the_size_of_the_patch_may_come_from_the_arguments() -> None:
    network = build_network(
        primus(input_shape=[16, 8, 8]), input_channels=1, num_outputs=2, deep_supervision=False, patch_size=None
    )
    assert network(torch.randn(1, 1, 16, 8, 8)).shape == (1, 2, 16, 8, 8)


def test_one_output_comes_in_a_list_with_deep_supervision() -> None:
    network, image = build(primus()), torch.randn(1, 1, 16, 16, 24)
    single = network(image)
    network.deep_supervision = True
    outputs = network(image)
    assert len(outputs) == len(network.output_strides) == 1
    assert torch.equal(outputs[0], single)


def test_rotary_angles_are_positions_times_frequencies() -> None:
    angles = rotary_angles((2, 3, 4), 24)
    token = 1 * 12 + 2 * 4 + 3  # the position (1, 2, 3)
    frequencies = [10000 ** (-i / 4) for i in range(4)]
    assert angles.shape == (24, 12)
    assert angles[token].tolist() == pytest.approx([p * f for p in (1, 2, 3) for f in frequencies])


def test_rotated_queries_and_keys_depend_on_relative_positions_only() -> None:
    angles = rotary_angles((4, 4, 4), 12)
    rotation = torch.stack((angles.cos(), angles.sin()))
    q, k = torch.randn(2, 12).double()[:, None].expand(-1, 64, -1)
    products = rotate(q[None, None], rotation)[0, 0] @ rotate(k[None, None], rotation)[0, 0].T
    position = {(a, b, c): a * 16 + b * 4 + c for a in range(4) for b in range(4) for c in range(4)}
    first = products[position[0, 1, 2], position[1, 3, 0]]
    assert products[position[2, 0, 3], position[3, 2, 1]] == pytest.approx(float(first), rel=1e-5)
    assert products[position[0, 1, 2], position[1, 3, 1]] != pytest.approx(float(first), rel=1e-5)


def test_weights_are_drawn_as_nnunet_draws_them() -> None:
    torch.manual_seed(0)
    network = build(primus(embed_dim=144, eva_depth=3, num_register_tokens=8))
    state = network.state_dict()

    def spread(name: str) -> float:
        return float(state[name].std())

    for block in range(3):
        prefix, scale = f"eva.blocks.{block}.", math.sqrt(2 * (block + 1))
        assert spread(prefix + "attn.q_proj.weight") == pytest.approx(0.02, rel=0.05)
        assert spread(prefix + "attn.proj.weight") == pytest.approx(0.02 / scale, rel=0.05)
        assert spread(prefix + "mlp.fc2.weight") == pytest.approx(0.02 / scale, rel=0.05)
        assert bool((state[prefix + "gamma_1"] == 0.1).all())
    assert spread("eva.pos_embed") == pytest.approx(0.02, rel=0.1)
    assert spread("down_projection.proj.weight") == pytest.approx(math.sqrt(2 / 512), rel=0.05)
    assert 0 < spread("register_tokens") < 2e-6
    assert not any(bool(v.any()) for n, v in state.items() if n.endswith("bias"))
    assert not state["mask_token"].any()


def test_convolutional_tokens_do_not_start_with_silent_residual_blocks() -> None:
    state = build(primus("PrimusV3")).state_dict()
    assert bool((state["down_projection.stages.0.blocks.0.conv2.norm.weight"] == 1).all())
    assert [float(state[f"down_projection.scale_proj_to_tokens.{i}"]) for i in range(3)] == [pytest.approx(1e-5)] * 3


@pytest.mark.parametrize("scale", [None, 0.5])
def test_a_dropped_branch_leaves_the_sample_and_the_others_grow(scale: float | None) -> None:
    torch.manual_seed(1)
    block = Block(TransformerSettings(embed_dim=12, depth=1, heads=1, layer_scale=scale), drop_path=0.5)
    x, branch = torch.zeros(200, 2, 12), torch.ones(200, 2, 12)
    added = block._add(x, branch, block.gamma_1)[:, 0, 0].detach()
    full = 1.0 if scale is None else scale
    assert set(added.tolist()) == {0.0, 2 * full}
    assert 70 < int((added == 0).sum()) < 130
    block.eval()
    assert set(block._add(x, branch, block.gamma_1).flatten().tolist()) == {full}


def test_the_loss_of_a_network_reaches_every_parameter_in_bfloat16() -> None:
    for name in ("Primus", "PrimusV2"):
        network = build(primus(name, num_register_tokens=2, drop_path_rate=0.0))
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(torch.randn(2, 1, 16, 16, 24))
        logits.float().square().mean().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_primus_compiles_without_graph_breaks() -> None:
    network = build(primus("PrimusV3", num_register_tokens=2))
    explained = torch._dynamo.explain(network)(torch.randn(1, 1, 16, 16, 24))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(["Primus", "PrimusV2"]),
    grid=st.tuples(*[st.integers(1, 2)] * 3).filter(lambda g: math.prod(g) > 1),
    channels=st.integers(1, 3),
    outputs=st.integers(1, 6),
    registers=st.integers(0, 2),
)
def test_any_primus_gives_logits_of_the_size_of_its_patch(
    name: str, grid: tuple[int, ...], channels: int, outputs: int, registers: int
) -> None:
    patch = tuple(8 * n for n in grid)
    architecture = primus(name, embed_dim=12, eva_depth=1, num_register_tokens=registers)
    network, image = build(architecture, patch, outputs, channels).eval(), torch.randn(2, channels, *patch)
    logits = network(image)
    assert logits.shape == (2, outputs, *patch)
    twin = build(architecture, patch, outputs, channels).eval()
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin(image), logits)
