"""Transfer plans on networks of this package: what is taken, how it is changed, what is refused, what is accounted."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnunet_pt.core.errors import CheckpointError, UsageError
from nnunet_pt.networks.build import build_network
from nnunet_pt.plans.plans import Architecture
from nnunet_pt.transfer.adaptation_plan import PRIMUS_KEYS, AdaptationPlan, NetworkKeys
from nnunet_pt.transfer.names import names_of_version_1, one_name_each, stale_names
from nnunet_pt.transfer.plan import Policy, TransferPlan, TransferSettings, plan_transfer
from nnunet_pt.transfer.source import PretrainedSource

POLICIES: tuple[Policy, ...] = ("strict", "match", "adapt")


def unet(
    kind: str = "PlainConvUNet",
    *,
    features: tuple[int, ...] = (2, 3, 4),
    kernel: int | tuple[int, ...] = 3,
    channels: int = 1,
    outputs: int = 3,
    dimensions: int = 3,
    blocks: int = 1,
) -> nn.Module:
    stages = len(features)
    first = kernel if isinstance(kernel, tuple) else (kernel,) * dimensions
    arguments: dict[str, Any] = {
        "n_stages": stages,
        "features_per_stage": list(features),
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [list(first)] + [[3] * dimensions] * (stages - 1),
        "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage": [blocks] * stages,
    }
    return built(kind, arguments, channels, outputs, None)


def primus(*, patch: tuple[int, ...] = (16, 16, 16), channels: int = 1, outputs: int = 3, depth: int = 1) -> nn.Module:
    arguments = {"embed_dim": 36, "eva_depth": depth, "eva_numheads": 2, "patch_embed_size": [8, 8, 8]}
    return built("Primus", {**arguments, "scale_attn_inner": True, "init_values": 0.1}, channels, outputs, patch)


def built(
    kind: str, arguments: Mapping[str, Any], channels: int, outputs: int, patch: tuple[int, ...] | None
) -> nn.Module:
    network = build_network(
        Architecture(network_class_name=kind, arch_kwargs=arguments, requires_import=()),
        input_channels=channels,
        num_outputs=outputs,
        deep_supervision=False,
        patch_size=patch,
    )
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.copy_(torch.randn_like(tensor))
    return network


def source_of(network: nn.Module | Mapping[str, Tensor], **more: Any) -> PretrainedSource:
    state = network.state_dict() if isinstance(network, nn.Module) else network
    weights, stored = one_name_each(state)
    return PretrainedSource(
        path=Path("source.pth"),
        weights=weights,
        stored_as=stored,
        kind="weights",
        sha256="0" * 64,
        stale=stale_names(state, stored),
        **more,
    )


def transfer(
    target: nn.Module, source: nn.Module | PretrainedSource, policy: Policy = "adapt", **more: Any
) -> TransferPlan:
    read = source if isinstance(source, PretrainedSource) else source_of(source)
    plan = plan_transfer(target, read, policy=policy, settings=TransferSettings(**more))
    plan.apply(target)
    return plan


def how(plan: TransferPlan, name: str) -> tuple[str, str]:
    found = next(t for t in plan.tensors if t.target == name)
    return found.action, found.how


NETWORKS = {
    "plain": lambda: unet(),
    "residual": lambda: unet("ResidualEncoderUNet", blocks=2),
    "plain_2d": lambda: unet(dimensions=2),
    "primus": lambda: primus(),
    "primus_v2": lambda: built("PrimusV2", {"embed_dim": 36, "eva_depth": 1, "eva_numheads": 2}, 2, 3, (16, 16, 16)),
}
LABELS = ("background", "a", "b")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_an_equal_network_becomes_equal_bit_by_bit(kind: str, policy: Policy) -> None:
    source, target = NETWORKS[kind](), NETWORKS[kind]()
    plan = transfer(target, source_of(source, label_names=LABELS), policy, target_labels=LABELS)
    theirs, heads = source.state_dict(), {t.target for t in plan.tensors if t.part == "heads"}
    for name, tensor in target.state_dict().items():
        skipped = policy == "strict" and ".seg_layers." in name
        assert torch.equal(tensor, theirs[name]) != skipped
    assert plan.encoder_share == 1 and plan.unused == ()
    assert {t.action for t in plan.tensors if t.target not in heads} == {"copied"}


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_distinct_tensor_is_accounted_once_and_aliases_stay_one(kind: str) -> None:
    target = NETWORKS[kind]()
    distinct = {id(t): n for n, t in reversed(target.state_dict(keep_vars=True).items())}
    plan = transfer(target, NETWORKS[kind]())
    assert [t.target for t in plan.tensors] == [n for n in target.state_dict() if n in set(distinct.values())]
    assert {id(t) for t in target.state_dict(keep_vars=True).values()} == set(distinct)
    tensors = {id(t): t for t in target.state_dict(keep_vars=True).values()}.values()
    assert sum(t.parameters for t in plan.tensors) == sum(t.numel() for t in tensors)
    stages = plan.stages()
    assert sum(s.parameters for s in stages) == sum(t.parameters for t in plan.tensors)
    assert sum(sum(s.tensors.values()) for s in stages) == len(plan.tensors)


SHAPES = st.fixed_dictionaries(
    {
        "features": st.sampled_from([(2, 3, 4), (3, 3, 5), (2, 3), (2, 3, 4, 4)]),
        "kernel": st.sampled_from([1, 3, 5]),
        "channels": st.integers(1, 3),
        "dimensions": st.sampled_from([2, 3]),
        "outputs": st.integers(2, 4),
        "blocks": st.integers(1, 2),
    }
)


@settings(max_examples=25, deadline=None)
@given(here=SHAPES, there=SHAPES, policy=st.sampled_from(["match", "adapt"]))
def test_a_second_time_changes_nothing(here: dict[str, Any], there: dict[str, Any], policy: Policy) -> None:
    target, source = unet(**here), source_of(unet(**there), label_names=LABELS[: there["outputs"]])
    before = copy.deepcopy(target.state_dict())
    plan = transfer(target, source, policy, allow_little=True, target_labels=LABELS[: here["outputs"]])
    once = copy.deepcopy(target.state_dict())
    plan.apply(target)
    assert all(torch.equal(once[n], t) for n, t in target.state_dict().items())
    for t in plan.tensors:
        assert (t.action in ("copied", "adapted")) == (t.transferred > 0) == (t.target in plan.values)
        changed = int((once[t.target] != before[t.target]).sum())
        assert changed <= t.transferred <= t.parameters
        assert changed == t.transferred or "kernel" in t.how  # padding may write zeros over zeros only
        assert t.action == "copied" or t.how


@pytest.mark.parametrize("policy", ["strict", "match"])
def test_other_shapes_without_adaptation(policy: Policy) -> None:
    target, source = unet(channels=2, kernel=1), unet(outputs=5)
    before = copy.deepcopy(target.state_dict())
    if policy == "strict":
        with pytest.raises(CheckpointError) as error:
            transfer(target, source, policy)
        text = str(error.value)
        assert "conv.weight: checkpoint 2 x 1 x 3 x 3 x 3, network 2 x 2 x 1 x 1 x 1" in text
        assert text.count(": checkpoint ") == 2 and "seg_layers" not in text
        assert all(torch.equal(before[n], t) for n, t in target.state_dict().items())
    else:
        plan = transfer(target, source, policy)
        skipped = [t.target for t in plan.tensors if t.action == "skipped" and t.part != "heads"]
        assert skipped == ["encoder.stages.0.0.convs.0.conv.weight", "decoder.stages.1.convs.0.conv.weight"]
        assert how(plan, skipped[0])[1] == "shape 2 x 1 x 3 x 3 x 3 in the file"


def test_input_channels_by_name() -> None:
    source, target = unet(channels=2), unet(channels=3)
    read = source_of(source, channel_names=("T1", "T2"))
    plan = transfer(target, read, target_channels=("T2", "FLAIR", "T1"))
    name = "encoder.stages.0.0.convs.0.conv.weight"
    theirs, ours = source.get_parameter(name), target.get_parameter(name)
    assert torch.allclose(ours[:, 0], theirs[:, 1] * 2 / 3) and torch.allclose(ours.sum(1), theirs.sum(1), atol=1e-6)
    assert how(plan, name) == ("adapted", "2 to 3 input channels")
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        pairs = zip(
            source.encoder(image.repeat(1, 2, 1, 1, 1)),  # type: ignore[operator]
            target.encoder(image.repeat(1, 3, 1, 1, 1)),  # type: ignore[operator]
            strict=True,
        )
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def cascade(channels: tuple[str, ...], labels: tuple[str, ...]) -> dict[str, Any]:
    """What nnU-Net says about the second stage of a cascade."""
    return {
        "channel_names": channels,
        "configuration": "3d_cascade_fullres",
        "plans": {"configurations": {"3d_cascade_fullres": {"previous_stage": "3d_lowres"}}},
        "dataset_json": {
            "channel_names": {str(number): name for number, name in enumerate(channels)},
            "labels": {"background": 0, **{name: number for number, name in enumerate(labels, 1)}},
            "numTraining": 1,
            "file_ending": ".nii.gz",
        },
    }


def test_inputs_of_a_cascade_by_name() -> None:
    """The labels of the first stage are inputs with names, too."""
    source, target = unet(channels=3), unet(channels=4)
    read = source_of(source, **cascade(("T1",), ("liver", "spleen")))
    transfer(target, read, target_channels=("FLAIR", "T1", "previous stage: spleen", "previous stage: liver"))
    name = "encoder.stages.0.0.convs.0.conv.weight"
    theirs, ours = source.get_parameter(name), target.get_parameter(name)
    assert torch.allclose(ours[:, 1:], theirs[:, [0, 2, 1]] * 3 / 4)
    assert torch.allclose(ours.sum(1), theirs.sum(1), atol=1e-6)
    assert read.input_names == ("T1", "previous stage: liver", "previous stage: spleen")
    assert replace(read, configuration="2d").input_names == ("T1",)


@pytest.mark.parametrize("axes", ["shuffled", "more", "fewer"])
def test_heads_by_label_name(axes: str) -> None:
    theirs = ("background", "liver", "kidney left", "spleen")
    ours = {
        "shuffled": ("background", "Spleen", "liver", "kidney_left"),
        "more": ("background", "liver", "heart", "spleen", "lung"),
        "fewer": ("background", "spleen"),
    }[axes]
    source, target = unet(outputs=len(theirs)), unet(outputs=len(ours))
    before = copy.deepcopy(target.state_dict())
    plan = transfer(target, source_of(source, label_names=theirs), target_labels=ours)
    known = {n.replace("_", " ").lower(): i for i, n in enumerate(theirs)}
    for end in ("weight", "bias"):
        for level in range(2):
            name = f"decoder.seg_layers.{level}.{end}"
            for row, label in enumerate(ours):
                number = known.get(label.replace("_", " ").lower())
                expected = before[name][row] if number is None else source.state_dict()[name][number]
                assert torch.equal(target.state_dict()[name][row], expected)
            assert how(plan, name)[1] == f"{sum(n.replace('_', ' ').lower() in known for n in ours)} of {len(ours)}" + (
                " labels by name"
            )


def test_heads_are_left_without_names_or_on_request() -> None:
    for more in ({}, {"target_labels": LABELS, "heads": "none"}, {"target_labels": ("background", "x", "y")}):
        target = unet()
        before = copy.deepcopy(target.state_dict())
        plan = transfer(target, source_of(unet(), label_names=LABELS), **more)
        assert plan.share("heads") == 0
        assert all(torch.equal(before[n], t) for n, t in target.state_dict().items() if "seg_layers" in n)


@pytest.mark.parametrize(("there", "here"), [(2, 3), (3, 2)])
def test_between_2d_and_3d(there: int, here: int) -> None:
    source, target = unet(dimensions=there), unet(dimensions=here)
    plan = transfer(target, source_of(source, label_names=LABELS), target_labels=LABELS)
    assert plan.share() == 1
    name = "encoder.stages.1.0.convs.0.conv.weight"
    theirs, ours = source.get_parameter(name), target.get_parameter(name)
    if here == 3:
        assert torch.equal(ours[:, :, 1], theirs) and not ours[:, :, [0, 2]].any()
    else:
        assert torch.allclose(ours, theirs.mean(2))


def test_growing_kernels_keep_the_output() -> None:
    source, target = unet(kernel=(1, 3, 3)), unet(kernel=(5, 3, 3))
    transfer(target, source_of(source, label_names=LABELS), target_labels=LABELS)
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.allclose(source(image), target(image), atol=1e-4)


@pytest.mark.parametrize("policy", ["match", "adapt"])
def test_deeper_and_shallower_targets_match_from_the_top(policy: Policy) -> None:
    deep, shallow = (2, 3, 4, 5), (2, 3, 4)
    for there, here in ((deep, shallow), (shallow, deep)):
        source, target = unet(features=there), unet(features=here)
        plan = transfer(target, source, policy)
        theirs, ours = source.state_dict(), target.state_dict()
        for level in range(2):  # from the highest resolution
            a, b = len(there) - 2 - level, len(here) - 2 - level
            for part in ("stages.{}.convs.0.conv.weight", "transpconvs.{}.weight"):
                assert torch.equal(theirs["decoder." + part.format(a)], ours["decoder." + part.format(b)])
        if here == deep:
            assert how(plan, "encoder.stages.3.0.convs.0.conv.weight") == ("initial", "not in the file")
            assert how(plan, "decoder.stages.0.convs.0.conv.weight")[0] == "initial"
        else:
            assert all("stages.3" in n or "decoder" in n for n in plan.unused)


def test_wider_targets_copy_the_overlap() -> None:
    source, target = unet(features=(2, 3, 4)), unet(features=(3, 4, 6))
    before = copy.deepcopy(target.state_dict())
    plan = transfer(target, source)
    theirs, ours = source.state_dict(), target.state_dict()
    name = "encoder.stages.1.0.convs.0.conv.weight"
    assert torch.equal(ours[name][:3, :2], theirs[name])
    assert torch.equal(ours[name][3:], before[name][3:]) and torch.equal(ours[name][:, 2:], before[name][:, 2:])
    assert how(plan, name) == ("adapted", "channels 3x2 in the file, 4x3 here")
    name = "decoder.stages.1.convs.0.conv.weight"  # upsampled features, then those of the encoder
    assert torch.equal(ours[name][:2, [0, 1, 3, 4]], theirs[name])
    assert torch.equal(ours[name][:, [2, 5]], before[name][:, [2, 5]])
    without = TransferSettings(width=False, allow_little=True)
    kept = plan_transfer(unet(features=(3, 4, 6)), source_of(source), policy="adapt", settings=without)
    assert kept.share() == 0 and kept.too_little is not None


def test_chosen_layers() -> None:
    source, target = unet(), unet()
    before = copy.deepcopy(target.state_dict())
    plan = transfer(target, source, layers=("encoder.stages.0-1", "decoder.transpconvs"))
    for t in plan.tensors:
        chosen = t.target.startswith(("encoder.stages.0.", "encoder.stages.1.", "decoder.transpconvs."))
        assert (t.action == "copied") == chosen
        assert chosen or t.how == "not among the chosen layers"
        assert torch.equal(target.state_dict()[t.target], (source.state_dict() if chosen else before)[t.target])
    with pytest.raises(UsageError, match=r"encoder.stages.0") as error:
        transfer(target, source, layers=("encoder.stage.0",))
    assert "-transfer_layers" in str(error.value)


@pytest.mark.parametrize("policy", ["match", "adapt"])
def test_too_little_is_refused_with_the_account(policy: Policy) -> None:
    source, target = primus(), unet()
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(CheckpointError) as error:
        transfer(target, source, policy)
    assert all(
        word in str(error.value) for word in ("source.pth", "encoder.stages.0", "0 of", "--allow_little_transfer")
    )
    assert all(torch.equal(before[n], t) for n, t in target.state_dict().items())
    assert transfer(target, source, policy, allow_little=True).share() == 0


@pytest.mark.parametrize(("wider", "refused"), [(2, False), (20, True)])
def test_much_wider_layers_stay_random(wider: int, refused: bool) -> None:
    """All of their tensors get something, but that is next to nothing."""
    source, target = source_of(unet(features=(2, 3, 4))), unet(features=(2 * wider, 3 * wider, 4 * wider))
    plan = plan_transfer(target, source, policy="adapt", settings=TransferSettings(allow_little=True))
    encoder = [t for t in plan.tensors if t.part == "encoder"]
    assert all(t.action == "adapted" for t in encoder) and (plan.too_little is not None) == refused
    if refused:
        assert plan.too_little is not None and plan.too_little.startswith(f"0 of {len(encoder)} tensors")
        with pytest.raises(CheckpointError, match="too little"):
            plan_transfer(target, source, policy="adapt")


def test_wrapped_names_without_a_description() -> None:
    source, target = unet("ResidualEncoderUNet"), unet("ResidualEncoderUNet")
    for prefix in ("backbone.", "model.net."):
        wrapped = source_of({prefix + n: t for n, t in source.state_dict().items()} | {"queue": torch.ones(3)})
        plan = transfer(target, wrapped)
        assert plan.encoder_share == 1 and plan.unused == ("queue",)
        assert plan.tensors[0].source == prefix + plan.tensors[0].target
    encoder = source_of(dict(source.encoder.state_dict()))  # type: ignore[union-attr, operator]
    plan = transfer(target, encoder)
    assert plan.encoder_share == 1 and plan.share("decoder") == 0


def nnssl_plan(**more: Any) -> AdaptationPlan:
    return AdaptationPlan(
        architecture=Architecture(network_class_name="PrimusX", arch_kwargs={}, requires_import=()),
        keys=PRIMUS_KEYS,
        **more,
    )


def test_positions_for_another_grid() -> None:
    source, target = primus(patch=(16, 16, 16)), primus(patch=(24, 16, 8))
    read = source_of(source, adaptation_plan=nnssl_plan(patch_size=(16, 16, 16)))
    plan = transfer(target, read, target_patch_size=(24, 16, 8))
    assert how(plan, "eva.pos_embed") == ("adapted", "grid 2x2x2 to 3x2x1")
    assert plan.encoder_share == 1


def with_class_token(source: nn.Module, *, token: bool = True, positions: int = 1) -> dict[str, Tensor]:
    state = dict(source.state_dict())
    state["eva.pos_embed"] = torch.cat((torch.full((1, positions, 36), 9.0), state["eva.pos_embed"]), 1)
    return state | ({"eva.cls_token": torch.ones(1, 1, 36)} if token else {})


def test_class_token_of_the_source_is_dropped() -> None:
    source, target = primus(), primus()
    plan = transfer(target, source_of(with_class_token(source)), target_patch_size=(16, 16, 16))
    assert torch.equal(target.state_dict()["eva.pos_embed"], source.state_dict()["eva.pos_embed"])
    assert "without 1 class" in how(plan, "eva.pos_embed")[1]
    assert "eva.cls_token" in plan.unused


@pytest.mark.parametrize(("token", "positions"), [(False, 1), (True, 0), (True, 2)])
def test_class_token_mismatch(token: bool, positions: int) -> None:
    read = source_of(
        with_class_token(primus(), token=token, positions=positions),
        adaptation_plan=nnssl_plan(patch_size=(16, 16, 16)),
    )
    with pytest.raises(CheckpointError, match="class token") as error:
        transfer(primus(), read, target_patch_size=(16, 16, 16))
    text = str(error.value)
    assert f"{8 + positions} positions" in text and "2x2x2 = 8" in text
    assert ("looks as if there were a class token" in text) == (not token)


def test_positions_of_registers_stay() -> None:
    arguments = {"embed_dim": 36, "eva_depth": 1, "eva_numheads": 2, "num_register_tokens": 2}
    with_registers = [built("Primus", arguments, 1, 3, (16, 16, 16)) for _ in range(2)]
    without = built("Primus", {**arguments, "num_register_tokens": 0}, 1, 3, (16, 16, 16))
    before = with_registers[0].state_dict()["eva.pos_embed"].clone()
    transfer(with_registers[0], without)
    after = with_registers[0].state_dict()["eva.pos_embed"]
    assert torch.equal(after[:, :2], before[:, :2])
    assert torch.equal(after[:, 2:], without.state_dict()["eva.pos_embed"])
    transfer(with_registers[1], with_registers[0])
    assert torch.equal(with_registers[1].state_dict()["eva.pos_embed"], after)


def test_a_file_without_positions() -> None:
    source, target = primus(), primus()
    state = {n: t for n, t in source.state_dict().items() if n != "eva.pos_embed"}
    plan = transfer(target, source_of(state))
    assert how(plan, "eva.pos_embed") == ("initial", "not in the file")


def test_token_order_is_only_corrected_where_there_are_tokens() -> None:
    with pytest.raises(UsageError, match="fix_token_axes"):
        transfer(unet(), unet(), fix_token_axes=True)
    with pytest.raises(UsageError, match="fix_token_axes"):
        transfer(primus(), primus(), "match", fix_token_axes=True)
    source, target = primus(), primus()
    plan = transfer(target, source, fix_token_axes=True)
    changed = {t.target.rpartition(".attn.")[2] for t in plan.tensors if t.action == "adapted"}
    assert {"q_proj.weight", "q_proj.bias", "k_proj.weight", "eva.pos_embed"} == changed


def test_values_that_are_not_finite_are_refused() -> None:
    source = unet()
    with torch.no_grad():
        source.get_parameter("encoder.stages.0.0.convs.0.conv.weight").view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        transfer(unet(), source)


def test_values_of_another_precision() -> None:
    source, target = unet().half(), unet()
    transfer(target, source)
    name = "encoder.stages.0.0.convs.0.conv.weight"
    assert target.get_parameter(name).dtype == torch.float32
    assert torch.equal(target.get_parameter(name), source.get_parameter(name).float())


def test_wrapped_networks() -> None:
    source, target = unet(), nn.DataParallel(unet())
    plan = transfer(target, source)
    assert plan.encoder_share == 1 and not plan.tensors[0].target.startswith("module.")
    assert torch.equal(target.module.state_dict()[plan.tensors[0].target], source.state_dict()[plan.tensors[0].target])


def test_stale_names_are_told() -> None:
    source = unet()
    stale = {n: torch.zeros_like(t) if ".conv." in n else t for n, t in source.state_dict().items()}
    plan = transfer(unet(), source_of(stale))
    assert "second name" in plan.notes[0]
    assert "all_modules" in (plan.tensors[0].source or "")


def test_strict_within_the_encoder() -> None:
    """nnssl's rule for equal networks: stem and encoder under the names that the plan gives, nothing else."""
    source, target = primus(), primus()
    wrapped = source_of({"encoder." + n: t for n, t in source.state_dict().items() if not n.startswith("up_")})
    keys = NetworkKeys(
        encoder="encoder.eva",
        stem="encoder.down_projection",
        in_proj=("encoder.down_projection.proj",),
        positions="encoder.eva.pos_embed",
    )
    plan = transfer(target, wrapped, "strict", decoder=False, source_keys=keys)
    assert plan.encoder_share == 1 and plan.share("decoder") == plan.share("heads") == 0
    with pytest.raises(CheckpointError, match="up_projection"):
        transfer(target, wrapped, "strict", source_keys=keys)


def test_every_tensor_of_a_network_of_version_1() -> None:
    """Its U-Net has two convolutions in each stage; the transposed ones have no bias, the heads neither."""
    source, target = unet(blocks=2), unet(blocks=2)
    state = {n: t for n, t in one_name_each(source.state_dict())[0].items() if not n.startswith("decoder.stages")}
    old, last = {}, 2
    for name, tensor in state.items():
        pieces = name.split(".")
        if name.startswith("encoder"):
            stage, conv, rest = int(pieces[2]), pieces[5], ".".join(pieces[6:])
            block = f"{conv}.blocks.0" if stage == last else f"blocks.{conv}"
            old[f"conv_blocks_context.{stage}.{block}.{rest.replace('norm', 'instnorm')}"] = tensor
        elif "transpconvs" in name and name.endswith("weight"):
            old[f"tu.{pieces[2]}.weight"] = tensor
        elif "seg_layers" in name and name.endswith("weight"):
            old[f"seg_outputs.{pieces[2]}.weight"] = tensor
    new = names_of_version_1(old)
    plan = transfer(target, source_of({new[n]: t for n, t in old.items()}))
    assert plan.encoder_share == 1 and plan.unused == ()
    taken = {t.target for t in plan.tensors if t.source is not None and t.part in ("decoder", "heads")}
    assert taken == {f"decoder.{part}.{i}.weight" for part in ("transpconvs", "seg_layers") for i in range(2)}
    theirs = source.state_dict()
    assert all(torch.equal(target.state_dict()[t.target], theirs[t.target]) for t in plan.used)
