"""Checkpoints keep nnU-Net's format, are complete or absent, and say what they are if they are something else."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_pt.core.errors import CheckpointError, StorageError, TrainingError
from nnunet_pt.core.files import remove_leftovers
from nnunet_pt.transfer.checkpoint import Checkpoint, read_checkpoint, strip_prefixes, write_checkpoint
from nnunet_pt.transfer.source import read_source

Write = Callable[..., Path]
NAME = "checkpoint_latest.pth"


def plain_types(value: Any) -> set[type]:
    """All types of values that are not containers."""
    if isinstance(value, dict):
        return set().union(*(plain_types(v) for pair in value.items() for v in pair))
    if isinstance(value, (list, tuple)):
        return set().union(*(plain_types(v) for v in value))
    return {type(value)}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


def same_checkpoint(a: Checkpoint, b: Checkpoint) -> bool:
    return all(same(getattr(a, name), getattr(b, name)) for name in Checkpoint.__slots__)


def test_format_is_that_of_nnunet(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Pins what nnU-Net 2.8.1 reads, see its recorded checkpoints for the original."""
    checkpoint.logging["mean_fg_dice"] = [np.float32(0.5), np.float64(0.25)]
    checkpoint.best_ema = np.float32(0.5)
    checkpoint.extra = {"nnunet_pt": {"format": 1}}
    write_checkpoint(tmp_path / NAME, checkpoint)
    content = torch.load(tmp_path / NAME, weights_only=True)  # without any allow-list
    assert {key: type(value) for key, value in content.items()} == {
        "network_weights": OrderedDict,
        "optimizer_state": dict,
        "grad_scaler_state": type(None),
        "logging": dict,
        "_best_ema": float,
        "current_epoch": int,
        "init_args": dict,
        "trainer_name": str,
        "inference_allowed_mirroring_axes": tuple,
        "nnunet_pt": dict,
    }
    assert list(content) == [
        "network_weights",
        "optimizer_state",
        "grad_scaler_state",
        "logging",
        "_best_ema",
        "current_epoch",
        "init_args",
        "trainer_name",
        "inference_allowed_mirroring_axes",
        "nnunet_pt",
    ]
    assert list(content["init_args"]) == ["plans", "configuration", "fold", "dataset_json", "device"]
    assert isinstance(content["init_args"]["device"], torch.device)
    assert list(content["optimizer_state"]) == ["state", "param_groups"]
    assert plain_types(content["logging"]) == {float, str}
    assert content["logging"]["mean_fg_dice"] == [0.5, 0.25]


def test_recorded_checkpoints_survive_a_round_trip(tmp_path: Path, golden_model: Path) -> None:
    original = torch.load(golden_model, weights_only=False, map_location="cpu")  # a file of our own records
    read = read_checkpoint(golden_model)
    write_checkpoint(tmp_path / NAME, read)
    again = torch.load(tmp_path / NAME, weights_only=True)
    assert list(again) == list(original)
    assert same(original, again)
    assert same_checkpoint(read, read_checkpoint(tmp_path / NAME))
    assert (tmp_path / NAME).stat().st_size <= golden_model.stat().st_size * 1.01  # aliases are stored once
    header = read_checkpoint(golden_model, lazy=True)
    assert header.current_epoch == original["current_epoch"] == len(header.logging["train_losses"])
    assert header.best_ema == pytest.approx(float(original["_best_ema"]))


def test_recorded_pretraining_is_recognised(golden_nnssl: Path) -> None:
    with pytest.raises(CheckpointError, match="nnssl pre-training"):
        read_checkpoint(golden_nnssl)
    source = read_source(golden_nnssl)
    assert source.kind == "nnssl"
    assert source.adaptation_plan is not None


VALUES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=8)
NESTED = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    extra=st.dictionaries(st.sampled_from(["nnunet_pt", "nnssl_adaptation_plan", "own"]), NESTED),
    logging=st.dictionaries(st.text(max_size=8), st.lists(st.floats(width=32), max_size=3)),
    axes=st.none() | st.lists(st.integers(0, 2), unique=True).map(tuple),
    best=st.none() | st.floats(0, 1),
    epoch=st.integers(0, 10**6),
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=4),
    kind=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64]),
)
def test_any_checkpoint_survives_a_round_trip(
    tmp_path: Path,
    checkpoint: Checkpoint,
    extra: dict[str, Any],
    logging: dict[str, list[Any]],
    axes: tuple[int, ...] | None,
    best: float | None,
    epoch: int,
    shapes: list[list[int]],
    kind: torch.dtype,
) -> None:
    weights = {f"layer.{i}": torch.arange(math.prod(s)).reshape(s).to(kind) for i, s in enumerate(shapes)}
    written = replace(
        checkpoint,
        network_weights=weights,
        extra=extra,
        logging=logging,
        mirroring_axes=axes,
        best_ema=best,
        current_epoch=epoch,
    )
    if any(isinstance(v, float) and math.isnan(v) for v in [best]):
        return
    write_checkpoint(tmp_path / NAME, written)
    for lazy in (False, True):
        assert same_checkpoint(written, replace(read_checkpoint(tmp_path / NAME, lazy=lazy)))


def test_shared_memory_is_stored_once_and_stays_shared(tmp_path: Path, checkpoint: Checkpoint) -> None:
    shared = torch.zeros(100_000)
    checkpoint.network_weights = {"conv.weight": shared, "all_modules.0.weight": shared}
    checkpoint.optimizer_state = None
    write_checkpoint(tmp_path / NAME, checkpoint)
    assert (tmp_path / NAME).stat().st_size < 1.1 * shared.nbytes
    weights = read_checkpoint(tmp_path / NAME).network_weights
    assert weights["conv.weight"].data_ptr() == weights["all_modules.0.weight"].data_ptr()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["network_weights", "optimizer_state"])
def test_non_finite_weights_are_never_written(tmp_path: Path, checkpoint: Checkpoint, value: float, where: str) -> None:
    write_checkpoint(tmp_path / NAME, checkpoint)
    before = (tmp_path / NAME).read_bytes()
    if where == "network_weights":
        name = list(checkpoint.network_weights)[-1]
        checkpoint.network_weights[name].view(-1)[0] = value
    else:
        name = "optimizer_state.state.0.momentum_buffer"
        assert checkpoint.optimizer_state is not None
        checkpoint.optimizer_state["state"][0]["momentum_buffer"].view(-1)[-1] = value
    with pytest.raises(TrainingError, match=name.replace(".", r"\.")):
        write_checkpoint(tmp_path / NAME, checkpoint)
    assert (tmp_path / NAME).read_bytes() == before


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_large_weights_are_finite(tmp_path: Path, checkpoint: Checkpoint, kind: torch.dtype) -> None:
    largest = torch.full((3,), torch.finfo(kind).max, dtype=kind)  # their sum is not finite
    write_checkpoint(tmp_path / NAME, replace(checkpoint, network_weights={"a": largest}))
    assert torch.equal(read_checkpoint(tmp_path / NAME).network_weights["a"], largest)


@pytest.mark.parametrize("sizes", [(200_000,), (1000,) * 100])
def test_old_checkpoint_survives_a_full_disk(tiny_disk: Path, checkpoint: Checkpoint, sizes: tuple[int, ...]) -> None:
    write_checkpoint(tiny_disk / NAME, checkpoint)
    larger = {str(i): torch.zeros(n) for i, n in enumerate(sizes)}
    with pytest.raises(StorageError, match="no space left") as error:
        write_checkpoint(tiny_disk / NAME, replace(checkpoint, network_weights=larger))
    assert NAME in str(error.value)
    assert same_checkpoint(checkpoint, read_checkpoint(tiny_disk / NAME))
    assert [p.name for p in tiny_disk.iterdir()] == [NAME]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from nnunet_pt.transfer.checkpoint import read_checkpoint, write_checkpoint

path = Path(sys.argv[1])
checkpoint = read_checkpoint(path)
save = torch.save

def half(content, file):
    save(content, file)
    file.truncate(file.tell() // 2)
    os.fsync(file.fileno())
    os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
checkpoint.current_epoch += 1
write_checkpoint(path, checkpoint)
"""


def test_old_checkpoint_survives_a_kill_while_writing(tmp_path: Path, checkpoint: Checkpoint) -> None:
    write_checkpoint(tmp_path / NAME, checkpoint)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / NAME)], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert same_checkpoint(checkpoint, read_checkpoint(tmp_path / NAME))
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


V1 = {"epoch": 3, "state_dict": {}, "optimizer_state_dict": {}, "plot_stuff": [], "lr_scheduler_state_dict": None}
OTHERS: dict[str, tuple[Any, str]] = {
    "number": (7, "object of type int"),
    "nnunet_v1": (V1, "nnU-Net version 1"),
    "lightning": ({"pytorch-lightning_version": "2", "state_dict": {}}, "PyTorch Lightning"),
    "bare": ({"a.weight": torch.ones(1)}, "weights only"),
    "empty": ({}, "missing: network_weights, init_args, trainer_name"),
    "other": ({"model": {"w": torch.ones(1)}, "args": 1}, "1 tensor and the keys model, args"),
    "no_trainer": ({"network_weights": {"a": torch.ones(1)}, "init_args": {}}, "missing: trainer_name"),
    "no_plans": (
        {"network_weights": {"a": torch.ones(1)}, "init_args": {"fold": 0}, "trainer_name": "a"},
        "init_args",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_content_is_described(tmp_path: Path, raw_writer: Write, kind: str) -> None:
    content, expected = OTHERS[kind]
    path = raw_writer(tmp_path / NAME, content)
    with pytest.raises(CheckpointError, match=expected) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"), [("current_epoch", "many"), ("_best_ema", [1]), ("inference_allowed_mirroring_axes", 3)]
)
def test_values_of_another_form(
    tmp_path: Path, checkpoint: Checkpoint, raw_writer: Write, key: str, value: Any
) -> None:
    write_checkpoint(tmp_path / NAME, checkpoint)
    content = torch.load(tmp_path / NAME, weights_only=True)
    raw_writer(tmp_path / NAME, {**content, key: value})
    with pytest.raises(CheckpointError, match=NAME):
        read_checkpoint(tmp_path / NAME)


def test_checkpoints_reduced_to_prediction_are_read(tmp_path: Path, checkpoint: Checkpoint, raw_writer: Write) -> None:
    needed = ("network_weights", "init_args", "trainer_name")
    raw_writer(tmp_path / NAME, {name: getattr(checkpoint, name) for name in needed})
    read = read_checkpoint(tmp_path / NAME)
    assert (read.optimizer_state, read.logging, read.current_epoch, read.mirroring_axes) == (None, {}, 0, None)


@pytest.mark.parametrize("kind", ["number", "nnunet_v1", "lightning", "empty"])
def test_files_without_weights(tmp_path: Path, raw_writer: Write, kind: str) -> None:
    with pytest.raises(CheckpointError, match="no network weights"):
        read_source(raw_writer(tmp_path / NAME, OTHERS[kind][0]))


def test_prefixes() -> None:
    one, two = torch.ones(1), torch.zeros(1)
    assert strip_prefixes({"module._orig_mod.a": one, "module._orig_mod.b": two}) == {"a": one, "b": two}
    assert strip_prefixes({"_orig_mod.module.a": one}) == {"a": one}
    assert strip_prefixes({"module.a": one, "b": two}) == {"module.a": one, "b": two}
    assert strip_prefixes({}) == {}
