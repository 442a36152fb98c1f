from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from nnunet_pt.networks.blocks import ConvUnit, LayerSettings, ResidualBlock, initialise_he
from nnunet_pt.networks.build import build_network, named_architecture, with_batch_norm
from nnunet_pt.networks.memory import feature_map_size
from nnunet_pt.networks.operators import Operator
from nnunet_pt.plans.plans import Architecture

PATH = "dynamic_network_architectures.architectures.unet."
BLOCKS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}


def unet(name: str = "PlainConvUNet", dimensions: int = 3, **more: Any) -> Architecture:
    """Three stages of few features; ``more`` replaces or adds arguments."""
    kwargs = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * 3,
        "strides": [[1] * dimensions] + [[2] * dimensions] * 2,
        BLOCKS[name]: [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return Architecture(network_class_name=PATH + name, arch_kwargs=kwargs | more, requires_import=())


def build(architecture: Architecture, *, deep_supervision: bool = True, channels: int = 1) -> Any:
    return build_network(architecture, input_channels=channels, num_outputs=3, deep_supervision=deep_supervision)


def distinct_tensors(network: nn.Module) -> int:
    return len({t.data_ptr() for t in network.state_dict().values()})


@pytest.mark.parametrize(
    ("architecture", "keys", "parameters"),
    [
        (named_architecture("ResEncL"), 956, 102_350_575),
        (
            unet(
                n_stages=6,
                features_per_stage=[32, 64, 128, 256, 320, 320],
                kernel_sizes=3,
                strides=[1, 2, 2, 2, 2, 2],
                n_conv_per_stage=2,
                n_conv_per_stage_decoder=2,
            ),
            292,
            31_196_399,
        ),
    ],
    ids=["ResEncL", "PlainConvUNet"],
)
def test_networks_of_known_size_have_as_many_names_and_parameters(
    architecture: Architecture, keys: int, parameters: int
) -> None:
    with torch.device("meta"):
        network = build(architecture)
    assert len(network.state_dict()) == keys
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_tensors_have_all_the_names_that_nnunet_gives_them() -> None:
    state = build(unet("ResidualEncoderUNet")).state_dict()
    unit = {f"{layer}.{kind}" for layer in ("conv", "norm", "all_modules.0", "all_modules.1")
            for kind in ("weight", "bias")}  # fmt: skip
    skip = unit - {"conv.bias", "all_modules.0.bias"}
    encoder = {f"encoder.stem.convs.0.{n}" for n in unit}
    for stage, blocks in enumerate((1, 2, 1)):
        encoder |= {
            f"encoder.stages.{stage}.blocks.{b}.conv{c}.{n}" for b in range(blocks) for c in (1, 2) for n in unit
        }
    encoder |= {f"encoder.stages.{s}.blocks.0.skip.1.{n}" for s in (1, 2) for n in skip}
    decoder = {f"decoder.stages.{s}.convs.{c}.{n}" for s, c in ((0, 0), (1, 0), (1, 1)) for n in unit}
    decoder |= {
        f"decoder.{m}.{s}.{k}" for m in ("transpconvs", "seg_layers") for s in (0, 1) for k in ("weight", "bias")
    }
    assert set(state) == encoder | decoder | {f"decoder.{n}" for n in encoder}


def test_names_of_a_plain_encoder_have_one_more_level() -> None:
    names = [n for n in build(unet()).state_dict() if n.startswith("encoder.") and "all_modules" not in n]
    assert names[:2] == ["encoder.stages.0.0.convs.0.conv.weight", "encoder.stages.0.0.convs.0.conv.bias"]
    assert len(names) == 4 * 4


def test_parameters_come_in_the_order_in_which_optimiser_states_number_them() -> None:
    network = build(unet("ResidualEncoderUNet"))
    parts = [".".join(n.split(".")[:2]) for n, _ in network.named_parameters()]
    assert [k for k, _ in groupby(parts)] == [
        "encoder.stem", "encoder.stages", "decoder.stages", "decoder.transpconvs", "decoder.seg_layers",
    ]  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_a_state_dict_whose_names_disagree_is_loaded_with_all_modules_winning(name: str) -> None:
    network, stale = build(unet(name)), build(unet(name)).state_dict()
    right = {k: torch.randn_like(v) for k, v in network.state_dict().items() if "all_modules" in k}
    for key in right:
        right[key] = right[key.removeprefix("decoder.") if key.startswith("decoder.encoder") else key]
    network.load_state_dict(stale | right)
    loaded = network.state_dict()
    assert right
    for key, value in right.items():
        assert torch.equal(loaded[key], value)
        alias = key.replace("all_modules.0", "conv").replace("all_modules.1", "norm")
        assert loaded[alias].data_ptr() == loaded[key].data_ptr()


def test_deep_supervision_can_be_changed_at_run_time_without_changing_the_names() -> None:
    network = build(unet(), deep_supervision=False)
    names, image = list(network.state_dict()), torch.randn(1, 1, 8, 8, 8)
    single = network(image)
    network.deep_supervision = True
    outputs = network(image)
    assert [o.shape[2:] for o in outputs] == [(8, 8, 8), (4, 4, 4)]
    assert torch.equal(outputs[0], single)
    assert list(network.state_dict()) == names == list(build(unet(), deep_supervision=True).state_dict())


def test_convolutions_are_drawn_from_he_normal_and_biases_are_zero() -> None:
    torch.manual_seed(0)
    network = build(unet("ResidualEncoderUNet", features_per_stage=[16, 32, 64]))
    convolutions = [m for m in network.modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d))]
    for module in convolutions:
        assert module.bias is None or not module.bias.any()
        if module.weight.numel() > 4000:
            inputs = module.weight.shape[1] * math.prod(module.kernel_size)
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / 1.0001 / inputs), rel=0.1)


def test_residual_blocks_start_as_their_shortcut() -> None:
    norm = Operator(nn.InstanceNorm3d, {"affine": True})
    block: Any = ResidualBlock(
        LayerSettings(dimensions=3, norm=norm, nonlin=Operator(nn.ReLU)), 4, 4, (3, 3, 3), (1, 1, 1)
    )
    initialise_he(block)
    x = torch.randn(2, 4, 5, 5, 5)
    assert torch.equal(block(x), x.relu())
    assert not block.conv2.norm.weight.any() and not block.conv2.norm.bias.any()


def test_weights_stay_as_torch_makes_them_when_not_to_be_drawn() -> None:
    network = build_network(
        unet("ResidualEncoderUNet"), input_channels=1, num_outputs=2, deep_supervision=True, initialise=False
    )
    assert all(bool(m.weight.all()) for m in network.modules() if isinstance(m, nn.InstanceNorm3d))


def test_the_nonlinearity_may_come_before_the_normalisation() -> None:
    first = build(unet(nonlin_first=True, dropout_op="torch.nn.Dropout3d", dropout_op_kwargs={"p": 0.1}))
    unit = next(m for m in first.modules() if isinstance(m, ConvUnit))
    kinds = [type(m) for m in unit.all_modules]
    assert kinds == [nn.Conv3d, nn.Dropout3d, nn.LeakyReLU, nn.InstanceNorm3d]
    image = torch.randn(2, 1, 4, 4, 4)
    first.eval()
    assert torch.equal(unit(image), unit.all_modules(image))


def test_dropout_moves_the_norm_to_the_next_number_and_spares_second_convolutions() -> None:
    state = build(unet("ResidualEncoderUNet", dropout_op="torch.nn.Dropout", dropout_op_kwargs={"p": 0.5})).state_dict()
    block = "encoder.stages.0.blocks.0."
    assert block + "conv1.all_modules.2.weight" in state
    assert block + "conv2.all_modules.1.weight" in state
    assert block + "conv2.all_modules.2.weight" not in state


@pytest.mark.parametrize(
    "missing", [{"norm_op": None, "norm_op_kwargs": None}, {"nonlin": None, "nonlin_kwargs": None}]
)
def test_layers_that_are_null_are_left_out(missing: dict[str, Any]) -> None:
    network = build(unet(**missing, conv_bias=False))
    kinds = {type(m) for m in network.modules()}
    assert (nn.InstanceNorm3d in kinds) != ("norm_op" in missing)
    assert (nn.LeakyReLU in kinds) != ("nonlin" in missing)
    assert network(torch.randn(1, 1, 8, 8, 8))[0].shape == (1, 3, 8, 8, 8)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_batch_norm_takes_the_place_of_the_normalisation(dimensions: int) -> None:
    architecture = with_batch_norm(unet(dimensions=dimensions, norm_op=None, norm_op_kwargs=None))
    norms = [m for m in build(architecture).modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d))]
    assert len(norms) == 4 + 3
    assert {type(m).__name__ for m in norms} == {f"BatchNorm{dimensions}d"}
    assert "norm_op" in architecture.requires_import


@pytest.mark.parametrize("name", BLOCKS)
def test_training_in_bfloat16_reaches_every_parameter(name: str) -> None:
    network = build(unet(name))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(torch.randn(2, 1, 8, 8, 8))
    assert {o.dtype for o in outputs} == {torch.bfloat16}
    sum(o.float().square().mean() for o in outputs).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("name", BLOCKS)
def test_networks_compile_without_graph_breaks(name: str) -> None:
    network = build(unet(name, dropout_op="torch.nn.Dropout", dropout_op_kwargs={"p": 0.5}))
    explained = torch._dynamo.explain(network)(torch.randn(1, 1, 8, 8, 8))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    dimensions, stages = draw(st.sampled_from([2, 3])), draw(st.integers(2, 3))
    numbers = st.integers(1, 2)

    def one_or_list(values: st.SearchStrategy[Any], count: int) -> Any:
        return draw(st.one_of(values, st.lists(values, min_size=count, max_size=count)))

    def per_axis(values: st.SearchStrategy[int]) -> Any:
        return draw(st.one_of(values, st.lists(values, min_size=dimensions, max_size=dimensions)))

    name = draw(st.sampled_from(sorted(BLOCKS)))
    return unet(
        name,
        dimensions,
        n_stages=stages,
        features_per_stage=one_or_list(st.integers(1, 5), stages),
        kernel_sizes=[per_axis(st.sampled_from([1, 3])) for _ in range(stages)],
        strides=[1] + [per_axis(numbers) for _ in range(stages - 1)],
        n_conv_per_stage_decoder=one_or_list(numbers, stages - 1),
        conv_bias=draw(st.booleans()),
        **{BLOCKS[name]: one_or_list(numbers, stages)},
    )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(architecture=architectures(), channels=st.integers(1, 3))
def test_any_network_keeps_the_image_size_and_its_state_dict(architecture: Architecture, channels: int) -> None:
    network = build(architecture, channels=channels)
    dimensions = 2 if "2d" in architecture.arch_kwargs["conv_op"] else 3
    patch = (8,) * dimensions
    image = torch.randn(1, channels, *patch)
    outputs = network(image)
    assert len(outputs) == len(network.output_strides) == architecture.arch_kwargs["n_stages"] - 1
    for output, stride in zip(outputs, network.output_strides, strict=True):
        assert output.shape == (1, 3, *(n // s for n, s in zip(patch, stride, strict=True)))

    twin = build(architecture, channels=channels)
    twin.load_state_dict(network.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(twin(image), outputs, strict=True))
    assert distinct_tensors(network) == len(list(network.parameters()))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(architecture=architectures())
def test_the_feature_map_size_counts_what_the_convolutions_of_a_network_produce(architecture: Architecture) -> None:
    widths = [2, 3, 4][: architecture.arch_kwargs["n_stages"]]  # with equal ones, nnU-Net counts absent projections
    architecture = replace(architecture, arch_kwargs={**architecture.arch_kwargs, "features_per_stage": widths})
    network = build(architecture, deep_supervision=False)
    patch = (8, 8) if "2d" in architecture.arch_kwargs["conv_op"] else (8, 8, 8)
    produced: list[int] = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            module.register_forward_hook(lambda _module, _inputs, output: produced.append(output[0].numel()))
    network(torch.randn(1, 1, *patch))
    assert sum(produced) == feature_map_size(architecture, patch, 3)


@pytest.mark.parametrize(("shape", "stride"), [((2, 2, 3), 1), ((2, 4, 4), 1), ((3, 4, 1), 2), ((4, 4, 4), 1)])
def test_gradients_in_bfloat16_are_right_where_an_axis_is_shorter_than_the_kernel(
    shape: tuple[int, ...], stride: int
) -> None:
    torch.manual_seed(0)
    unit = ConvUnit(LayerSettings(dimensions=3), 16, 16, (3, 3, 3), (stride,) * 3)
    image = torch.randn(2, 16, *shape)
    gradients = []
    for mixed in (False, True):
        unit.conv.weight.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = unit(image).float()
        (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
        assert isinstance(unit.conv.weight.grad, torch.Tensor)
        gradients.append(unit.conv.weight.grad)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.02
