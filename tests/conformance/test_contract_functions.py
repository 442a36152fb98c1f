"""The functions that outside checks call, on the numbers recorded for them (CONFORMANCE_GOLDEN)."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[3] / "shared" / "golden")) / "numeric"


@pytest.fixture(scope="module")
def contract() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance_contract", Path(__file__).with_name("contract.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorded(name: str) -> Any:
    path = GOLDEN / name
    return json.loads(path.read_text()) if path.is_file() else None


def parameters(found: list[Any]) -> list[Any]:
    reason = f"there are no recorded results in {GOLDEN} (CONFORMANCE_GOLDEN)"
    return found or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


@pytest.mark.parametrize("case", parameters([pytest.param(c, id=c["id"]) for c in recorded("resampling.json") or ()]))
def test_resample(contract: ModuleType, case: dict[str, Any]) -> None:
    with np.load(GOLDEN / "resampling.npz") as arrays:
        source, wanted = arrays[f"{case['id']}_in"], arrays[f"{case['id']}_out"]
    got = contract.resample(source, case["new_shape"], case["current_spacing"], case["new_spacing"], **case["kwargs"])
    if case["kwargs"]["is_seg"]:
        np.testing.assert_array_equal(got, wanted)
    else:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("network", "patch", "size"),
    parameters(
        [
            pytest.param(network, ast.literal_eval(patch), size, id=f"{name}-{patch}")
            for name, network in (recorded("networks.json") or {}).items()
            for patch, size in network["compute_conv_feature_map_size"].items()
        ]
    )
    if recorded("networks.json")
    else [pytest.param(None, None, None, marks=pytest.mark.skip(reason=f"there is no {GOLDEN}/networks.json"))],
)
def test_feature_map_size(contract: ModuleType, network: dict[str, Any], patch: tuple[int, ...], size: int) -> None:
    arguments = network["arch_kwargs"]
    own = {k: v for k, v in arguments.items() if k not in ("input_channels", "num_classes", "deep_supervision")}
    got = contract.feature_map_size(
        network["network_class_name"],
        own,
        input_channels=arguments["input_channels"],
        num_classes=arguments["num_classes"],
        patch_size=patch,
    )
    assert got == size


def test_functions_take_what_the_checks_give_them(contract: ModuleType) -> None:
    """Their signatures are an agreement with others."""
    assert list(inspect.signature(contract.resample).parameters) == [
        "array_cxyz",
        "new_shape",
        "current_spacing",
        "new_spacing",
        "is_seg",
        "order",
        "order_z",
        "force_separate_z",
    ]
    assert list(inspect.signature(contract.feature_map_size).parameters) == [
        "network_class_name",
        "arch_kwargs",
        "input_channels",
        "num_classes",
        "patch_size",
    ]
