"""Weights of nnssl's checkpoints in nnU-Net's networks, against what the original loaders made of them.

The records are found by listing; the tests are skipped without them. Tolerances are those of the records' description.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nnunet_pt.networks.build import build_network
from nnunet_pt.plans.plans import Architecture
from nnunet_pt.transfer.adapt import grid_of, resize_positions
from nnunet_pt.transfer.names import keys_of
from nnunet_pt.transfer.nnssl import nnssl_settings
from nnunet_pt.transfer.plan import TransferPlan, plan_transfer
from nnunet_pt.transfer.source import PretrainedSource, read_source

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", SHARED / "golden")) / "nnssl"
COMPUTED, POSITIONS, FEATURES, TOKEN_ORDER = 1e-6, 1e-5, 2e-4, 1e-4


def recorded(items: list[tuple[str, Any]]) -> list[Any]:
    reason = f"there are no recorded transfers in {GOLDEN} (CONFORMANCE_GOLDEN)"
    found = [pytest.param(value, id=name) for name, value in items]
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def described() -> list[tuple[Path, dict[str, Any]]]:
    return [(path.parent, json.loads(path.read_text())) for path in sorted(GOLDEN.glob("*/case.json"))]


def transfers() -> list[tuple[str, Any]]:
    return [
        (f"{folder.name}-{name}", (folder, load))
        for folder, case in described()
        for name, load in case.get("loads", {}).items()
    ]


def with_key(key: str) -> list[tuple[str, Any]]:
    return [(name, (folder, load)) for name, (folder, load) in transfers() if key in load]


def main_checkpoint(folder: Path) -> Path:
    return sorted(folder.rglob("checkpoint_final.pth"))[0]


def source_of(folder: Path, load: Mapping[str, Any]) -> PretrainedSource:
    return read_source((folder / load["checkpoint"]).resolve() if "checkpoint" in load else main_checkpoint(folder))


def build(load: Mapping[str, Any]) -> nn.Module:
    """The network with random values everywhere, so that what is not touched is seen."""
    description = load["network"]
    network = build_network(
        Architecture(
            network_class_name=description["network_class_name"],
            arch_kwargs=description["arch_kwargs"],
            requires_import=(),
        ),
        input_channels=load["in_channels"],
        num_outputs=load["num_classes"],
        deep_supervision=False,
        patch_size=load["patch_size"],
        initialise=False,
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return network


def transfer(
    load: Mapping[str, Any], source: PretrainedSource, *, fix_token_axes: bool = False
) -> tuple[nn.Module, dict[str, Tensor], TransferPlan]:
    """The network after the transfer, its tensors before, and the account."""
    network = build(load)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    settings = nnssl_settings(
        source, target_patch_size=tuple(load["patch_size"]), fix_token_axes=fix_token_axes, allow_little=True
    )
    plan = plan_transfer(network, source, policy="adapt", settings=settings)
    plan.apply(network)
    return network, before, plan


def check_expected(network: nn.Module, expected: Path, load: Mapping[str, Any]) -> None:
    state = network.state_dict()
    positions = keys_of(network).positions
    with np.load(expected) as arrays:
        for name in arrays:
            difference = np.abs(state[name].numpy() - arrays[name]).max()
            if name in load.get("copied", {}):
                assert difference == 0, name
            else:
                assert difference <= (POSITIONS if name == positions else COMPUTED), name


@pytest.mark.parametrize("record", recorded(transfers()))
def test_every_tensor_is_the_recorded_one(record: tuple[Path, dict[str, Any]]) -> None:
    folder, load = record
    network, before, plan = transfer(load, source_of(folder, load))
    check_expected(network, folder / load["expected"], load)
    state = network.state_dict()
    with np.load(folder / load["expected"]) as arrays:
        assert {t.target for t in plan.used} == set(arrays)
        if "untouched" in load:
            assert {t.target for t in plan.tensors} == set(arrays) | set(load["untouched"])
    untouched = [t.target for t in plan.tensors if t.action in ("skipped", "initial")]
    assert all(torch.equal(state[name], before[name]) for name in untouched)
    if "computed" in load:
        assert {t.target for t in plan.used if t.action == "copied"} == set(load["copied"])


@pytest.mark.parametrize("record", recorded(with_key("features")))
def test_encoder_computes_the_recorded_features(record: tuple[Path, dict[str, Any]]) -> None:
    folder, load = record
    network, _, _ = transfer(load, source_of(folder, load))
    with np.load(folder / load["features"]) as arrays, torch.no_grad():
        skips = network.encoder(torch.from_numpy(arrays["x"]))  # type: ignore[operator]
        for i, skip in enumerate(skips):
            if f"skip{i}" in arrays:
                assert np.abs(skip.numpy() - arrays[f"skip{i}"]).max() <= FEATURES


@pytest.mark.parametrize("record", recorded(with_key("forward")))
def test_transformer_computes_the_recorded_tokens(record: tuple[Path, dict[str, Any]]) -> None:
    folder, load = record
    network, _, _ = transfer(load, source_of(folder, load))
    with np.load(folder / load["forward"]) as arrays, torch.no_grad():
        before, after = tokens_of(network, torch.from_numpy(arrays["x"]))
        assert np.abs(before.numpy() - arrays["tokens_before_eva"]).max() <= FEATURES
        assert np.abs(after.numpy() - arrays["tokens_after_eva"]).max() <= FEATURES


def tokens_of(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    tokens = network.down_projection(image).flatten(2).transpose(1, 2)  # type: ignore[operator]
    return tokens, network.eva(tokens)  # type: ignore[operator]


@pytest.mark.parametrize(
    "folder", recorded([(p.parent.name, p.parent) for p in sorted(GOLDEN.glob("*/wrong_stale_stem*.npz"))])
)
def test_names_that_nothing_computes_with_are_not_used(folder: Path) -> None:
    case = json.loads((folder / "case.json").read_text())
    wrong = {p.stem.rpartition("_")[2]: p for p in folder.glob("wrong_stale_stem*.npz")}
    for name, path in wrong.items():
        network, _, plan = transfer(case["loads"][name], source_of(folder, case["loads"][name]))
        state = network.state_dict()
        with np.load(path) as arrays:
            assert any(np.abs(state[n].numpy() - arrays[n]).max() > 1e-3 for n in arrays if "conv.weight" in n)
        assert any("second name" in note for note in plan.notes)


def another_patch_size(content: dict[str, Any]) -> None:
    plan = content["nnssl_adaptation_plan"]
    for configuration in plan["pretrain_plan"]["configurations"].values():
        plan["pretrain_patch_size"] = list(configuration["patch_size"])
        configuration["patch_size"] = [160, 160, 160]


def wrapped_names(content: dict[str, Any]) -> None:
    plan, kept = content["nnssl_adaptation_plan"], ("eva.", "down_projection.", "mask_token")
    content["network_weights"] = {
        f"encoder.{n}": t for n, t in content["network_weights"].items() if n.startswith(kept)
    }
    for key in ("key_to_encoder", "key_to_stem", "key_to_lpe"):
        plan[key] = f"encoder.{plan[key]}"
    plan["keys_to_in_proj"] = [f"encoder.{key}" for key in plan["keys_to_in_proj"]]


def class_token(content: dict[str, Any]) -> None:
    weights = content["network_weights"]
    positions = weights["eva.pos_embed"]
    weights["eva.cls_token"] = torch.full((1, 1, positions.shape[2]), 7.0)
    weights["eva.pos_embed"] = torch.cat((torch.full_like(positions[:, :1], 9.0), positions), 1)


VARIANTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "pretrain_patch_size_override": another_patch_size,
    "wrapped_names": wrapped_names,
    "cls_token_in_source": class_token,
}


def variants() -> list[tuple[str, Any]]:
    return [
        (f"{folder.name}-{name}", (folder, case, name))
        for folder, case in described()
        for name in case.get("variants", {})
    ]


@pytest.mark.parametrize("record", recorded(variants()))
def test_variants_of_a_checkpoint(record: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    folder, case, name = record
    content = torch.load(main_checkpoint(folder), weights_only=True)
    VARIANTS[name](content)
    torch.save(content, tmp_path / "checkpoint.pth")
    expected = case["variants"][name]["expected"]
    load = next(load for load in case["loads"].values() if load["expected"] == expected)
    network, before, _ = transfer(load, read_source(tmp_path / "checkpoint.pth"))
    check_expected(network, folder / expected, load)
    assert all(torch.equal(network.state_dict()[n], before[n]) for n in load["untouched"])


@pytest.mark.parametrize(
    "folder", recorded([(p.parent.name, p.parent) for p in sorted(GOLDEN.glob("*/evamae_token_order.npz"))])
)
def test_corrected_token_order_gives_the_features_of_the_pretraining(folder: Path) -> None:
    case = json.loads((folder / "case.json").read_text())
    with np.load(folder / "evamae_token_order.npz") as arrays:
        image, features = torch.from_numpy(arrays["x"]), arrays["features"]
        fixed = {n.removeprefix("fixed/"): arrays[n] for n in arrays if n.startswith("fixed/")}
    shape = (image.shape[1], list(image.shape[2:]))
    load = next(v for v in case["loads"].values() if (v["in_channels"], v["patch_size"]) == shape)
    errors = []
    for fix in (True, False):
        network, _, _ = transfer(load, source_of(folder, load), fix_token_axes=fix)
        with torch.no_grad():
            grid = tokens_of(network, image)[1].transpose(1, 2).reshape(features.shape).numpy()
        errors.append(np.abs(grid - features).max())
        if fix:
            state = network.state_dict()
            assert all(np.array_equal(state[name].numpy(), array) for name, array in fixed.items())
    assert errors[0] <= TOKEN_ORDER
    assert errors[1] == pytest.approx(case["evamae_token_order"]["max_abs_error_without_correction"], rel=1e-3)


def resizings() -> list[tuple[str, Any]]:
    return [
        (f"{folder.name}-{pair['i']}", (folder / "lpe_resize.npz", pair))
        for folder, case in described()
        for pair in case.get("lpe_resize", [])
    ]


@pytest.mark.parametrize("record", recorded(resizings()))
def test_positions_are_resized_as_recorded(record: tuple[Path, dict[str, Any]]) -> None:
    path, pair = record
    before, after = (grid_of(pair[key], pair["patch_embed_size"]) for key in ("from_patch", "to_patch"))
    with np.load(path) as arrays:
        resized = resize_positions(torch.from_numpy(arrays[f"in{pair['i']}"]), before, after)
        assert np.abs(resized.numpy() - arrays[f"out{pair['i']}"]).max() <= POSITIONS


def layouts() -> list[tuple[str, Any]]:
    path = GOLDEN / "layouts.json"
    entries = json.loads(path.read_text()) if path.exists() else {}
    return [(name, (name, entry)) for name, entry in entries.items() if "key_to_encoder" in entry]


@pytest.mark.parametrize("record", recorded(layouts()))
def test_parts_of_named_networks(record: tuple[str, dict[str, Any]]) -> None:
    name, entry = record
    with torch.device("meta"):
        network = build_network(
            Architecture(network_class_name=name, arch_kwargs={}, requires_import=()),
            input_channels=entry.get("in_channels", 1),
            num_outputs=entry["num_classes"],
            deep_supervision=False,
            patch_size=entry.get("patch_size"),
            initialise=False,
        )
    keys = keys_of(network)
    assert (keys.encoder, keys.stem, keys.positions) == tuple(
        entry[key] for key in ("key_to_encoder", "key_to_stem", "key_to_lpe")
    )
    assert set(keys.in_proj) == set(entry["keys_to_in_proj"])


@pytest.mark.parametrize("record", recorded([t for t in transfers() if t[0].endswith("1ch")]))
def test_transferred_decoder_only_if_asked(record: tuple[Path, dict[str, Any]]) -> None:
    """A masked autoencoder's decoder is there; the originals never use it, we do if it is wanted."""
    folder, load = record
    source = source_of(folder, load)
    network = build(load)
    settings = nnssl_settings(source, target_patch_size=tuple(load["patch_size"]), allow_little=True)
    settings = replace(settings, decoder=True, width=True)
    plan = plan_transfer(network, source, policy="adapt", settings=settings)
    in_file = any(n.startswith(("decoder.stages.", "up_projection.")) for n in source.weights)
    assert (plan.share("decoder") > 0) == in_file
    assert plan.share("heads") == 0
