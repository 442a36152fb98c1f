"""Weights from any file: all of one content, nothing executed, what the file says about them."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.transfer import source
from nnunet_pt.transfer.checkpoint import Checkpoint, write_checkpoint
from nnunet_pt.transfer.source import read_source, sha256_of

Make = Callable[..., nn.Module]
Write = Callable[..., Path]
PLAN = {"architecture_plans": {"arch_class_name": "ResEncL"}, "key_to_encoder": "encoder.stages"}
NAMES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "BOOL": torch.bool}


def write_safetensors(path: Path, weights: Mapping[str, Tensor], *, cut: int = 0, change: Any = None) -> Path:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, tensor in weights.items():
        data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        kind = next(k for k, v in NAMES.items() if v == tensor.dtype)
        header[name] = {
            "dtype": kind,
            "shape": list(tensor.shape),
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    if change is not None:
        change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[: len(content) - cut])
    return path


def plain(network: nn.Module) -> dict[str, Tensor]:
    """Each tensor once, as a reader should name it."""
    named = {name: p.detach() for name, p in network.named_parameters()}
    return {name.replace("decoder.encoder", "encoder"): p for name, p in named.items()}


FORMS = ["nnunet", "bare", "module.", "_orig_mod.", "module._orig_mod.", "lightning", "monai", "nnssl", "safetensors"]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_same_weights_from_every_form(
    tmp_path: Path, small_unet: Make, raw_writer: Write, checkpoint: Checkpoint, form: str, lazy: bool
) -> None:
    network = small_unet()
    state = network.state_dict()
    path = tmp_path / "file.pth"
    if form == "nnunet":
        checkpoint.network_weights, checkpoint.optimizer_state = state, None
        write_checkpoint(path, checkpoint)
    elif form == "safetensors":
        path = write_safetensors(tmp_path / "file.safetensors", state)
    else:
        raw_writer(
            path,
            {
                "bare": state,
                "lightning": {"pytorch-lightning_version": "2", "state_dict": state, "epoch": 1},
                "monai": {"model": {**state, "encoder._extra_state": None}, "optimizer": {"state": {}}},
                "nnssl": {"network_weights": state, "nnssl_adaptation_plan": PLAN},
            }.get(form)
            or {form + name: tensor for name, tensor in state.items()},
        )
    source = read_source(path, lazy=lazy)
    expected = plain(network)
    assert list(source.weights) == list(expected)
    assert all(torch.equal(source.weights[name], tensor) for name, tensor in expected.items())
    assert source.kind == (form if form in ("nnunet", "nnssl") else "weights")
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256_of(path)


def test_what_computes_counts_in_any_order(tmp_path: Path, small_unet: Make, raw_writer: Write) -> None:
    state = small_unet().state_dict()
    stale = {n: t if ".all_modules." in n or "seg" in n else torch.zeros_like(t) for n, t in state.items()}
    for names in (list(stale), list(reversed(stale))):
        source = read_source(raw_writer(tmp_path / "a.pth", {n: stale[n] for n in names}))
        assert torch.equal(source.weights["encoder.0.conv.weight"], state["encoder.0.conv.weight"])
        assert "all_modules" in source.stored_as["encoder.0.conv.weight"]
        assert set(source.stale) == {n for n in stale if not torch.equal(stale[n], state[n])}
    assert read_source(raw_writer(tmp_path / "b.pth", state)).stale == ()


def test_normalisation_after_dropout(tmp_path: Path, raw_writer: Write) -> None:
    weights = {f"encoder.stem.convs.0.all_modules.{i}.weight": torch.full((2,), float(i)) for i in (0, 2)}
    source = read_source(raw_writer(tmp_path / "a.pth", weights))
    assert {n: float(t[0]) for n, t in source.weights.items()} == {
        "encoder.stem.convs.0.conv.weight": 0,
        "encoder.stem.convs.0.norm.weight": 2,
    }


def test_what_nnunet_says(tmp_path: Path, checkpoint: Checkpoint) -> None:
    architecture = {"network_class_name": "a.b.PlainConvUNet", "arch_kwargs": {"n_stages": 2}}
    configurations = {
        "base": {"patch_size": [8, 8], "architecture": architecture},
        "2d": {"inherits_from": "base", "patch_size": [16, 16]},
    }
    checkpoint.init_args |= {
        "plans": {"configurations": configurations},
        "dataset_json": {
            "channel_names": {"0": "T1", "1": "T2"},
            "labels": {"background": 0, "tumour": [1, 2], "core": [2], "ignore": 3},
            "regions_class_order": [1, 2],
            "numTraining": 1,
            "file_ending": ".nii.gz",
        },
    }
    write_checkpoint(tmp_path / "a.pth", checkpoint)
    source = read_source(tmp_path / "a.pth")
    assert source.kind == "nnunet" and source.configuration == "2d"
    assert (source.channel_names, source.label_names) == (("T1", "T2"), ("tumour", "core"))
    assert source.patch_size == (16, 16)
    assert source.architecture is not None and source.architecture.short_name == "PlainConvUNet"
    assert source.adaptation_plan is None


def test_plan_in_a_file_beside(tmp_path: Path, raw_writer: Write) -> None:
    folder = tmp_path / "model" / "fold_all"
    folder.mkdir(parents=True)
    weights = {"network_weights": {"encoder.stages.0.a": torch.ones(1)}, "spark_weights": {}, "trainer_name": "Spark"}
    path = raw_writer(folder / "a.pth", weights)
    source = read_source(path)
    assert source.kind == "nnssl"
    with pytest.raises(CheckpointError, match="no adaptation plan") as error:
        source.require_adaptation_plan()
    assert "adaptation_plan.json" in str(error.value) and str(path) in str(error.value)
    (tmp_path / "model" / "adaptation_plan.json").write_text(json.dumps({**PLAN, "citations": [{"name": "A"}]}))
    source = read_source(path)
    assert source.require_adaptation_plan().architecture.short_name == "ResEncL"
    assert source.citations == ({"name": "A"},)


V1_NAMES = {
    "conv_blocks_context.0.blocks.0.conv.weight": "encoder.stages.0.0.convs.0.conv.weight",
    "conv_blocks_context.0.blocks.1.instnorm.bias": "encoder.stages.0.0.convs.1.norm.bias",
    "conv_blocks_context.1.0.blocks.0.conv.bias": "encoder.stages.1.0.convs.0.conv.bias",
    "conv_blocks_context.1.1.blocks.0.conv.weight": "encoder.stages.1.0.convs.1.conv.weight",
    "conv_blocks_localization.0.0.blocks.0.conv.weight": "decoder.stages.0.convs.0.conv.weight",
    "conv_blocks_localization.0.1.blocks.0.instnorm.weight": "decoder.stages.0.convs.1.norm.weight",
    "tu.0.weight": "decoder.transpconvs.0.weight",
    "seg_outputs.0.weight": "decoder.seg_layers.0.weight",
}


def test_models_of_version_1(tmp_path: Path) -> None:
    state = {name: torch.full((2,), float(i)) for i, name in enumerate(V1_NAMES)}
    content = {"epoch": 1, "state_dict": state, "optimizer_state_dict": {}, "plot_stuff": ([], [], [], [])}
    path = tmp_path / "model_final_checkpoint.model"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    marker = tmp_path / "executed"
    (tmp_path / "model_final_checkpoint.model.pkl").write_bytes(pickle.dumps(Bomb(marker)))
    source = read_source(path)
    assert source.kind == "nnunet_v1"
    assert list(source.weights) == list(V1_NAMES.values())
    assert [float(t[0]) for t in source.weights.values()] == list(range(len(V1_NAMES)))
    assert not marker.exists()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_nothing_is_executed(tmp_path: Path, raw_writer: Write) -> None:
    marker = tmp_path / "executed"
    path = raw_writer(tmp_path / "a.pth", {"state_dict": {"a": torch.ones(1)}, "more": Bomb(marker)})
    with pytest.raises(CheckpointError, match="holds more than data"):
        read_source(path)
    assert not marker.exists()


def test_tensors_of_a_gpu_come_to_the_cpu(tmp_path: Path, raw_writer: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _: "cuda:7")
        path = raw_writer(tmp_path / "a.pth", {"encoder.a": torch.ones(3)})
    with pytest.raises(RuntimeError, match=r"(?i)cuda"):
        torch.load(path, weights_only=True)
    weights = read_source(path).weights
    assert weights["encoder.a"].device.type == "cpu" and weights["encoder.a"].sum() == 3


def test_types_of_safetensors(tmp_path: Path) -> None:
    weights = {
        "a": torch.tensor([True]),
        "b": torch.arange(3),
        "c": torch.ones(2, 2, dtype=torch.bfloat16),
        "d": torch.tensor(2.5),
        "e": torch.empty(0, 3),
        "f": torch.randn(3, 2),
    }
    read = read_source(write_safetensors(tmp_path / "a.safetensors", weights)).weights
    assert all(read[n].dtype == t.dtype and torch.equal(read[n], t) for n, t in weights.items())


def long_header(header: dict[str, Any]) -> None:
    header["a"]["data_offsets"] = [0, 4 * 10**9]


def wrong_shape(header: dict[str, Any]) -> None:
    header["a"]["shape"] = [7]


def negative(header: dict[str, Any]) -> None:
    header["a"] |= {"shape": [-1, -1], "data_offsets": [-4, 0]}


def unknown_type(header: dict[str, Any]) -> None:
    header["a"]["dtype"] = "Q4"


def no_entry(header: dict[str, Any]) -> None:
    header["a"] = 3


@pytest.mark.parametrize("change", [long_header, wrong_shape, negative, unknown_type, no_entry])
def test_damaged_safetensors(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"a": torch.ones(1), "b": torch.ones(5)}, change=change)
    with pytest.raises(CheckpointError, match="truncated or damaged") as error:
        read_source(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("cut", [1, 20])
def test_truncated_safetensors(tmp_path: Path, cut: int) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"a": torch.ones(1), "b": torch.ones(5)}, cut=cut)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_source(path)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_source(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"{}", b"\x89HDF....."])
def test_not_a_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_source(tmp_path / "a.pth")


def test_truncated(tmp_path: Path, raw_writer: Write) -> None:
    path = raw_writer(tmp_path / "a.pth", {"a": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="truncated"):
        read_source(path)


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"first")
    assert sha256_of(path) == hashlib.sha256(b"first").hexdigest()
    path.write_bytes(b"other")  # as long as before, perhaps at the same time
    assert sha256_of(path) == hashlib.sha256(b"other").hexdigest()
    monkeypatch.setattr(source, "_UNTOUCHED_NS", -1)
    reads: list[Path] = []
    monkeypatch.setattr(source, "_digest", lambda p: f"{len(reads)}{reads.append(p)}")
    assert sha256_of(path) == sha256_of(path) and reads == [path]
    os.utime(path, ns=(1, 1))
    sha256_of(path)
    assert reads == [path, path]
    source._known_digest.cache_clear()
