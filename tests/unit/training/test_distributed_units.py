"""Who the processes are and what they agree on; with real processes where one alone says nothing."""

from __future__ import annotations

import multiprocessing
import socket
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from training_member import launch, member

from nnunet_pt.core.errors import TrainingError
from nnunet_pt.training import distributed
from nnunet_pt.training.distributed import Processes, local_device, process_group

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return int(s.getsockname()[1])


def test_one_process_agrees_with_itself() -> None:
    alone = Processes()
    assert alone.is_main and not alone.are_several
    values = torch.tensor([1.0, 2.0])
    assert alone.sum(values) is values
    assert alone.collect(["a", "b"]) == ["a", "b"]
    alone.barrier()
    with process_group(None, CPU) as processes:
        assert processes == alone
    assert not dist.is_initialized()


def test_a_launcher_of_one_process_needs_no_group() -> None:
    with process_group(launch(0, 1, free_port()), CPU) as processes:
        assert processes.is_main and not processes.are_several
        assert not dist.is_initialized()


def test_two_processes_agree() -> None:
    context = multiprocessing.get_context("spawn")
    results, port = context.Queue(), free_port()
    members = [context.Process(target=member, args=(rank, port, results)) for rank in range(2)]
    for process in members:
        process.start()
    for process in members:
        process.join()
    assert [process.exitcode for process in members] == [0, 0]
    found = sorted(results.get(timeout=5) for _ in members)
    cases = ["case0", "case1", "case1"]
    assert found == [(0, True, [2.0, 1.0], True, cases), (1, False, [2.0, 1.0], True, cases)]


def test_others_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "JOIN_TIMEOUT", timedelta(seconds=1))
    port = free_port()
    with (
        pytest.raises(
            TrainingError, match=r"Process 1 of 2 \(on \S+\) could not join the others at localhost:"
        ) as caught,
        process_group(launch(1, 2, port), CPU),
    ):
        pass
    assert f"at localhost:{port}" in str(caught.value) and "MASTER_ADDR" in str(caught.value)
    assert "nobody answers there for 1 s" in str(caught.value)
    assert not dist.is_initialized()


def test_the_first_process_says_that_others_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever address was given: it is there itself."""
    monkeypatch.setattr(distributed, "JOIN_TIMEOUT", timedelta(seconds=1))
    nowhere = replace(launch(0, 2, free_port()), address="192.0.2.1", launcher="srun")
    with (
        pytest.raises(TrainingError, match=r"could not join the others at 192\.0\.2\.1") as caught,
        process_group(nowhere, CPU),
    ):
        pass
    assert "1/2 clients joined" in str(caught.value) and "MASTER_ADDR" in str(caught.value)
    others = replace(launch(1, 2, free_port()), launcher="srun")
    with pytest.raises(TrainingError, match="could not join") as caught, process_group(others, CPU):
        pass
    assert len(str(caught.value).splitlines()) == 1


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    cuda = torch.device("cuda", 0)
    assert local_device(cuda, Processes()) == cuda
    assert local_device(CPU, Processes(1, 2, 1, 2)) == CPU
    assert local_device(cuda, Processes(3, 4, 1, 2)) == torch.device("cuda", 1)
    assert chosen == [1]
    with pytest.raises(TrainingError, match="no GPU for process 2 of this machine") as caught:
        local_device(cuda, Processes(2, 4, 2, 4))
    assert "CUDA_VISIBLE_DEVICES" in str(caught.value)
