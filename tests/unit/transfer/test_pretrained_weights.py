"""``-pretrained_weights``: everything but the segmentation layers, or an error that lists all differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.transfer.checkpoint import Checkpoint, write_checkpoint
from nnunet_pt.transfer.plan import TransferPlan, plan_transfer
from nnunet_pt.transfer.source import read_source
from nnunet_pt.transfer.weights import load_weights

Make = Callable[..., nn.Module]
Write = Callable[..., Path]


def load_pretrained_weights(network: nn.Module, path: Path) -> TransferPlan:
    plan = plan_transfer(network, read_source(path), policy="strict")
    plan.apply(network)
    return plan


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("form", ["checkpoint", "bare", "module.", "_orig_mod.", "one_name_each"])
def test_all_but_segmentation_layers(
    tmp_path: Path, checkpoint: Checkpoint, small_unet: Make, raw_writer: Write, form: str
) -> None:
    source = state(small_unet(classes=5))
    if form == "checkpoint":
        checkpoint.network_weights, checkpoint.optimizer_state = source, None
        write_checkpoint(tmp_path / "a.pth", checkpoint)
    elif form == "one_name_each":
        raw_writer(tmp_path / "a.pth", {k: v for k, v in source.items() if "all_modules" not in k and "r.e" not in k})
    else:
        raw_writer(tmp_path / "a.pth", {form.replace("bare", "") + k: v for k, v in source.items()})
    network = small_unet(classes=3)
    before = state(network)
    report = load_pretrained_weights(network, tmp_path / "a.pth")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, (before if ".seg_layers." in name else source)[name])
    actions = {t.target: t.action for t in report.tensors}
    assert [n for n, a in actions.items() if a == "skipped"] == [
        "decoder.seg_layers.0.weight",
        "decoder.seg_layers.0.bias",
    ]
    assert (len(report.used), len(actions)) == (8, 10)
    assert "8 of 10 tensors" in str(report)


def test_the_name_that_computes_wins_over_others(tmp_path: Path, small_unet: Make, raw_writer: Write) -> None:
    source = state(small_unet())
    stale = {k: v if ".all_modules." in k else torch.zeros_like(v) for k, v in source.items()}
    for names in (list(stale), list(reversed(stale))):
        network = small_unet()
        load_pretrained_weights(network, raw_writer(tmp_path / "a.pth", {n: stale[n] for n in names}))
        assert torch.equal(network.get_parameter("encoder.0.conv.weight"), source["encoder.0.all_modules.0.weight"])


def test_all_differences_are_listed_and_nothing_is_changed(tmp_path: Path, small_unet: Make, raw_writer: Write) -> None:
    source = state(small_unet(channels=2, width=6))
    lost = ("encoder.1.norm", "encoder.1.all_modules.1")
    weights = {k: v for k, v in source.items() if not any(part in k for part in lost)}
    network = small_unet()
    before = state(network)
    with pytest.raises(CheckpointError) as error:
        load_pretrained_weights(network, raw_writer(tmp_path / "a.pth", weights))
    text = str(error.value)
    assert "encoder.0.conv.weight: checkpoint 6 x 2 x 3 x 3, network 4 x 1 x 3 x 3" in text
    assert "encoder.1.conv.weight: checkpoint 4 x 6 x 3 x 3, network 4 x 4 x 3 x 3" in text
    assert "encoder.1.norm.bias: checkpoint none, network 4" in text
    assert text.count(": checkpoint ") == 7
    assert str(tmp_path / "a.pth") in text
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_wrapped_networks(tmp_path: Path, small_unet: Make, raw_writer: Write) -> None:
    source = state(small_unet())
    path = raw_writer(tmp_path / "a.pth", source)
    network = nn.DataParallel(small_unet())
    assert len(load_pretrained_weights(network, path).used) == 8
    load_weights(network, source, path)
    assert all(torch.equal(source[k], v) for k, v in network.module.state_dict().items())


def changed(source: dict[str, Any], change: str) -> dict[str, Any]:
    if change == "missing":
        del source["encoder.0.conv.bias"]
    elif change == "more":
        source["extra.weight"] = torch.ones(2, 3)
    else:
        source["decoder.seg_layers.0.weight"] = torch.ones(7, 4, 1, 1)
    return source


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("missing", "encoder.0.conv.bias: none, network 4"),
        ("more", "extra.weight: 2 x 3, network none"),
        ("shape", "decoder.seg_layers.0.weight: 7 x 4 x 1 x 1, network 3 x 4 x 1 x 1"),
    ],
)
def test_strict_loading_names_differences(small_unet: Make, change: str, expected: str) -> None:
    network = small_unet()
    before = state(network)
    with pytest.raises(CheckpointError) as error:
        load_weights(network, changed(state(small_unet()), change), Path("a.pth"))
    assert expected in str(error.value)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
