"""Networks that nnssl and nnU-Net built, and what they recorded of them; the tests are skipped without the records."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_pt.networks.build import build_network
from nnunet_pt.plans.plans import Architecture

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", SHARED / "golden")) / "nnssl"
LAYOUTS = GOLDEN / "layouts.json"
TOLERANCE = 2e-4  # as the records' description says; values reach about 9


def recorded(paths: list[Any], ids: list[str]) -> list[Any]:
    reason = f"there are no recorded networks in {GOLDEN} (CONFORMANCE_GOLDEN)"
    found = [pytest.param(p, id=i) for p, i in zip(paths, ids, strict=True)]
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def forward_records() -> list[Any]:
    cases = sorted(GOLDEN.glob("*/case.json"))
    found = [(c.parent, n) for c in cases for n, load in _loads(c).items() if "full_state_dict" in load]
    return recorded(found, [f"{folder.name}-{name}" for folder, name in found])


def layout_records() -> list[Any]:
    names = sorted(json.loads(LAYOUTS.read_text())) if LAYOUTS.exists() else []
    return recorded(names, names)


def _loads(case: Path) -> dict[str, Any]:
    loads: dict[str, Any] = json.loads(case.read_text()).get("loads", {})
    return loads


def build(name: str, kwargs: dict[str, Any], record: dict[str, Any]) -> torch.nn.Module:
    return build_network(
        Architecture(network_class_name=name, arch_kwargs=kwargs, requires_import=()),
        input_channels=record.get("in_channels", 1),
        num_outputs=record["num_classes"],
        deep_supervision=False,
        patch_size=record.get("patch_size"),
    )


@pytest.mark.parametrize("record", forward_records())
def test_equal_weights_give_the_recorded_outputs(record: tuple[Path, str]) -> None:
    folder, name = record
    load = _loads(folder / "case.json")[name]
    network = build(load["network"]["network_class_name"], load["network"]["arch_kwargs"], load).eval()
    network.load_state_dict(torch.load(folder / load["full_state_dict"], weights_only=True))
    arrays = np.load(folder / load.get("forward", load.get("features")))
    with torch.no_grad():
        logits = network(torch.from_numpy(arrays["x"])).numpy()
    assert np.abs(logits - arrays["y"]).max() <= TOLERANCE
    if "rope_table" in arrays:
        cosine, sine = network.eva.rotation.numpy()  # type: ignore[union-attr, operator]
        table = np.concatenate([sine.repeat(2, -1), cosine.repeat(2, -1)], -1)
        assert np.abs(table - arrays["rope_table"]).max() <= 1e-6


@pytest.mark.parametrize("name", layout_records())
def test_names_and_shapes_are_the_recorded_ones(name: str) -> None:
    record = json.loads(LAYOUTS.read_text())[name]
    kwargs, short = dict(record.get("kwargs", {})), name.partition("_")[0]
    if "embed_dim" in record:
        short = "Primus"
        kwargs |= {"embed_dim": record["embed_dim"], "eva_depth": record["depth"], "eva_numheads": record["heads"]}
    with torch.device("meta"):
        network = build(short, kwargs, record)
    shapes = {k: list(v.shape) for k, v in network.state_dict().items()}
    if "n_keys" in record:
        assert len(shapes) == record["n_keys"]
        assert sum(p.numel() for p in network.parameters()) == record["n_parameters"]
    wanted = record.get("keys") or record["distinct"]
    assert {k: shapes.get(k) for k in wanted} == wanted
