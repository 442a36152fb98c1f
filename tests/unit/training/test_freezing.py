"""Which tensors a stage trains, of which network; groups and state of optimisers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_training import unet
from torch import nn

from nnunet_pt.cli.train import build_parser
from nnunet_pt.core.errors import TrainingError, UsageError
from nnunet_pt.networks.build import build_network, with_batch_norm
from nnunet_pt.plans.plans import Architecture
from nnunet_pt.training.freezing import (
    FACTOR,
    Layers,
    Stage,
    head_names,
    input_layer,
    keep_state,
    modules_with_fixed_statistics,
    stage_at,
)
from nnunet_pt.training.optimizers import build_optimizer
from nnunet_pt.training.recipe import DEFAULT, OPTIMIZER_NAMES, TrainingRecipe

PRIMUS = {"embed_dim": 24, "eva_depth": 2, "eva_numheads": 2}


def architecture(name: str) -> Architecture:
    if name.startswith("Primus"):
        return Architecture(network_class_name=name, arch_kwargs=PRIMUS, requires_import=())
    described = unet(3, [[1] * 3, [2] * 3, [2] * 3])
    arguments = described["arch_kwargs"]
    if name == "ResidualEncoderUNet":
        arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    return Architecture(
        network_class_name=name, arch_kwargs=arguments, requires_import=tuple(described["_kw_requires_import"])
    )


def network(name: str = "PlainConvUNet", *, batch_norm: bool = False, **options: Any) -> nn.Module:
    described = architecture(name)
    standard = {"input_channels": 2, "num_outputs": 3, "deep_supervision": False, "patch_size": (16, 16, 16)}
    return build_network(with_batch_norm(described) if batch_norm else described, **{**standard, **options})


def recipe(**changes: Any) -> TrainingRecipe:
    return replace(DEFAULT, **{"num_epochs": 20, **changes})


# ---------------------------------------------------------------- stages


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {0: "all", 19: "all", 25: "all"}),
        ({"freeze": ("encoder",)}, {0: "all but encoder", 19: "all but encoder"}),
        ({"freeze": ("encoder",), "freeze_epochs": 3}, {0: "all but encoder", 2: "all but encoder", 3: "all"}),
        ({"head_epochs": 4}, {0: "heads", 3: "heads", 4: "all"}),
        ({"head_epochs": 4, "warmup_epochs": 4}, {3: "heads", 4: "all", 8: "all"}),
        (
            {"head_epochs": 4, "freeze": ("encoder", "b"), "freeze_epochs": 6},
            {3: "heads but encoder b", 4: "all but encoder b", 5: "all but encoder b", 6: "all"},
        ),
    ],
)
def test_stages(changes: dict[str, Any], expected: dict[int, str]) -> None:
    stages = {epoch: stage_at(recipe(**changes), epoch) for epoch in expected}
    assert {epoch: stage.key for epoch, stage in stages.items()} == expected
    assert all(Stage.of(stage.key) == stage for stage in stages.values())


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize(
    ("name", "beginning", "layer"),
    [
        ("PlainConvUNet", "decoder.", "encoder.stages.0.0.convs.0.conv."),
        ("ResidualEncoderUNet", "decoder.", "encoder.stem.convs.0.conv."),
        ("Primus", "up_projection.", "down_projection.proj."),
    ],
)
def test_heads_are_what_pretraining_does_not_give(name: str, beginning: str, layer: str) -> None:
    built = network(name)
    parameters = dict(built.named_parameters())
    heads = head_names(built, new_input=False)
    assert heads == {n for n in parameters if n.startswith(beginning)}
    ours = {id(parameters[n]) for n in heads}
    encoder = built.encoder if "UNet" in name else built.eva
    assert not ours & {id(p) for p in encoder.parameters()}  # type: ignore[union-attr, operator]
    assert head_names(built, new_input=True) - heads == {f"{layer}weight", f"{layer}bias"}


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet", "Primus", "PrimusV2", "PrimusV3"])
def test_the_input_layer_depends_on_the_channels(name: str) -> None:
    """All of what another number of channels changes, and besides only biases."""
    one, two = (dict(network(name, input_channels=n).named_parameters()) for n in (1, 2))
    differing = {n for n in one if one[n].shape != two[n].shape}
    assert differing
    assert differing == {n for n in input_layer(network(name)) if n.endswith("weight")}


def test_heads_of_an_unknown_network() -> None:
    with pytest.raises(TrainingError, match="heads of a Linear cannot be trained") as caught:
        Layers(nn.Linear(2, 2), recipe(head_epochs=3), new_input=False)
    assert "-freeze" in (caught.value.remedy or "")


# ---------------------------------------------------------------- what is frozen


def test_a_pattern_means_a_part_of_the_network() -> None:
    built = network()
    layers = Layers(built, recipe(freeze=("encoder.stages.0-1",)), new_input=False)
    frozen = set(dict(built.named_parameters())) - layers.trained(Stage(frozen=("encoder.stages.0-1",)))
    assert frozen and {n.split(".")[2] for n in frozen} == {"0", "1"}
    assert all(n.startswith("encoder.stages.") for n in frozen)
    assert layers.trained(Stage()) == set(dict(built.named_parameters()))
    assert "all but what is frozen (encoder.stages.0-1)" in layers.describe(Stage(frozen=("encoder.stages.0-1",)))


def test_the_decoder_of_a_pattern_is_without_the_encoder_in_it() -> None:
    built = network()
    trained = Layers(built, recipe(freeze=("decoder",)), new_input=False).trained(Stage(frozen=("decoder",)))
    assert trained == {n for n, _ in built.named_parameters() if n.startswith("encoder.")}


@pytest.mark.parametrize("changes", [{"freeze": ("encoder.stagse.0",)}, {"lr_factors": ("encodre=0.1",)}])
def test_a_pattern_that_matches_nothing(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="No layer matches") as caught:
        Layers(network(), recipe(**changes), new_input=False)
    option = "-freeze" if "freeze" in changes else "-lr_factor"
    assert option in str(caught.value) and "encoder" in str(caught.value.expected)


@pytest.mark.parametrize(
    "changes", [{"freeze": ("encoder", "decoder")}, {"freeze": ("decoder",), "head_epochs": 2, "freeze_epochs": 5}]
)
def test_nothing_left_to_train(changes: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="Nothing is left to be trained"):
        Layers(network(), recipe(**changes), new_input=False)


def test_statistics_of_frozen_normalisation_are_fixed() -> None:
    built = network(batch_norm=True)
    layers = Layers(built, DEFAULT, new_input=False)
    fixed = modules_with_fixed_statistics(built, layers.trained(Stage(frozen=("encoder.stages.0",))))
    names = [name for name, module in built.named_modules() if any(module is f for f in fixed)]
    assert names == ["encoder.stages.0.0.convs.0.norm"]
    of_weight = layers.trained(Stage(frozen=("encoder.stages.0.0.convs.0.norm.weight",)))
    assert modules_with_fixed_statistics(built, of_weight) == []
    plain = network()
    assert modules_with_fixed_statistics(plain, set()) == []


# ---------------------------------------------------------------- groups and state


def test_one_group_in_the_networks_order_without_factors() -> None:
    built = network()
    groups = Layers(built, DEFAULT, new_input=False).groups(built)
    assert [id(p) for p in groups] == [id(p) for p in built.parameters()]


def test_the_last_factor_counts() -> None:
    built = network()
    factors = ("encoder=0.1", "encoder.stages.0=0.01", "decoder.seg_layers=2")
    groups = Layers(built, recipe(lr_factors=factors), new_input=False).groups(built)
    of = {id(p): group[FACTOR] for group in groups for p in group["params"]}
    names = dict(built.named_parameters())
    assert len(of) == len(names)
    for name, parameter in names.items():
        expected = 0.01 if name.startswith("encoder.stages.0") else 0.1 if name.startswith("encoder") else 1.0
        assert of[id(parameter)] == (2.0 if ".seg_layers." in name else expected), name


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_groups_learn_at_their_rates(optimizer: str) -> None:
    """One group with a tenth of the rate does what an optimiser with a tenth of the rate does."""
    torch.manual_seed(0)
    start = [torch.randn(3), torch.randn(4)]
    gradients = [[torch.randn(3), torch.randn(4)] for _ in range(3)]
    chosen = recipe(optimizer=optimizer)

    def run(grouped: bool) -> list[torch.Tensor]:
        parameters = [nn.Parameter(t.clone()) for t in start]
        if grouped:
            used = [
                build_optimizer(chosen, [{"params": [p], FACTOR: f} for p, f in zip(parameters, (1, 0.1), strict=True)])
            ]
        else:
            used = [build_optimizer(chosen, [p]) for p in parameters]
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            for number, group in enumerate(g for o in used for g in o.param_groups):
                group["lr"] = 0.01 * (1, 0.1)[number]
            for one in used:
                one.step()
        return [p.detach() for p in parameters]

    for got, expected in zip(run(True), run(False), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
def test_state_is_kept_for_what_was_trained_before(optimizer: str) -> None:
    """Half of the parameters are added later: they behave as new, the others as if nothing had happened."""
    torch.manual_seed(0)
    start = [torch.randn(3), torch.randn(4)]
    gradients = [[torch.randn(3), torch.randn(4)] for _ in range(5)]
    chosen = recipe(optimizer=optimizer)

    def steps(parameters: list[nn.Parameter], used: Any, which: range) -> None:
        for step in which:
            for parameter, gradient in zip(parameters, gradients[step][-len(parameters) :], strict=True):
                parameter.grad = gradient.clone()
            used.step()

    first, second = (nn.Parameter(t.clone()) for t in start)
    early = build_optimizer(chosen, [second])
    steps([second], early, range(2))
    late = build_optimizer(chosen, [first, second])
    keep_state(late, early)
    steps([first, second], late, range(2, 5))

    whole = nn.Parameter(start[1].clone())
    steps([whole], build_optimizer(chosen, [whole]), range(5))
    assert torch.equal(second, whole)
    new = nn.Parameter(start[0].clone())
    used = build_optimizer(chosen, [new])
    for step in range(2, 5):
        new.grad = gradients[step][0].clone()
        used.step()
    assert torch.equal(first, new)


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_the_example_in_the_help_fits_every_u_net(name: str) -> None:
    example = re.search(r"stay as they are,\s+for example\s+(.*?)\s+\(default", build_parser().format_help(), re.DOTALL)
    assert example is not None
    frozen = recipe(freeze=tuple(example[1].split()))
    made = network(name)
    trained = Layers(made, frozen, new_input=False).trained(stage_at(frozen, 0))
    assert trained and trained < {name for name, _ in made.named_parameters()}
