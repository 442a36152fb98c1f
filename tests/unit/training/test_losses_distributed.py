"""Two processes with unequal parts of a batch have the loss and the gradients of one with the whole batch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).with_name("losses_of_process.py")


def test_two_processes_are_as_good_as_one(tmp_path: Path) -> None:
    results = [tmp_path / f"{rank}.pt" for rank in range(2)]
    commands = [
        [sys.executable, str(SCRIPT), str(rank), "2", str(tmp_path / "rendezvous"), str(results[rank])]
        for rank in range(2)
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors

    spec = importlib.util.spec_from_file_location("losses_of_process", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    alone = script.figures(slice(None))
    for file in results:
        figures = torch.load(file, weights_only=True)
        assert figures.keys() == alone.keys()
        for name, tensors in figures.items():
            for got, expected in zip(tensors, alone[name], strict=True):
                torch.testing.assert_close(
                    got, expected, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
                )
