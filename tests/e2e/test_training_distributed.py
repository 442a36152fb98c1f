"""Training by two processes on CPUs gives what one process gives, and ends as a whole whatever happens to one."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable

import numpy as np
import pytest
from training_runs import EVERY_STEP, Fold, descendants, is_alive, wait_until

from nnunet_pt.training.state import BEST, FINAL, LATEST, newest_valid_checkpoint

TWO = ("-num_gpus", "2")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def new_plain_fold(new_fold: Callable[[], Fold]) -> Callable[[], Fold]:
    """Without dropout, which is different in each process, and with two validation cases."""

    def make() -> Fold:
        fold = new_fold()
        path = fold.data.parent / "nnUNetPlans.json"
        plans = json.loads(path.read_text())
        kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        kwargs["dropout_op"] = kwargs["dropout_op_kwargs"] = None
        path.write_text(json.dumps(plans))
        split = {"train": ["case_0", "case_1", "case_2"], "val": ["case_3", "case_4"]}
        (fold.data.parent / "splits_final.json").write_text(json.dumps([split]))
        return fold

    return make


@pytest.fixture
def plain_fold(new_plain_fold: Callable[[], Fold]) -> Fold:
    return new_plain_fold()


@pytest.fixture(scope="module")
def of_one_process(new_plain_fold: Callable[[], Fold]) -> Fold:
    fold = new_plain_fold()
    fold.finish(fold.train())
    return fold


def assert_equal_training(one: Fold, two: Fold) -> None:
    for kind, number in (("train", 12), ("val", 6)):
        assert len(one.events(kind)) == number
        for rank in (0, 1):
            assert np.abs(np.subtract(one.events(kind), two.events(kind, rank))).max() <= TOLERANCE
    assert_equal_result(one, two)


def assert_equal_result(one: Fold, two: Fold) -> None:
    for figures, others in zip(one.figures(), two.figures(), strict=True):
        for name in ("train_loss", "val_loss", "mean_fg_dice", "ema_fg_dice", "lr"):
            assert abs(figures[name] - others[name]) <= TOLERANCE, name
    weights, others = one.state()["weights"], two.state()["weights"]
    assert list(weights) == list(others)
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) <= 1e-4
    assert list(one.predictions()) == list(two.predictions()) == ["case_3.nii.gz", "case_4.nii.gz"]
    dice = [
        json.loads((fold.folder / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"]
        for fold in (one, two)
    ]
    assert abs(dice[0] - dice[1]) <= 0.01


def test_two_processes_train_like_one(of_one_process: Fold, plain_fold: Fold) -> None:
    output = plain_fold.finish(plain_fold.train(*TWO))
    assert_equal_training(of_one_process, plain_fold)
    assert "2 processes" in output
    assert output.count("Epoch 0 (1/3)") == output.count("Validation complete") == 1
    assert len(plain_fold.events("save")) == len(of_one_process.events("save"))
    assert plain_fold.events("save", 1) == []
    assert (
        len(plain_fold.events("final")) == len(plain_fold.events("final", 1)) == len(of_one_process.events("final")) / 2
    )
    assert sorted(p.name for p in plain_fold.folder.glob("*.pth")) == [BEST, FINAL]
    assert len(list(plain_fold.folder.glob("training_log_*"))) == 1


@pytest.mark.slow
def test_terminated_and_continued(of_one_process: Fold, plain_fold: Fold, nothing_left_running: list[int]) -> None:
    """SIGUSR1 and SIGTERM go to the process that started the others."""
    process = plain_fold.train(*TWO, "-save_every_minutes", "0", AT="begin:2 begin:4", DO="wait wait_again")
    plain_fold.wait_for(process, "begin", 2)
    process.send_signal(signal.SIGUSR1)
    plain_fold.go()
    wait_until(lambda: (plain_fold.folder / LATEST).exists() or process.poll() is not None)
    plain_fold.wait_for(process, "begin", 4)
    found = newest_valid_checkpoint(plain_fold.folder)
    assert found is not None and (found.state.epoch, found.state.iteration) == (0, 2)
    nothing_left_running += descendants(process.pid)
    process.terminate()
    plain_fold.go("go_again")
    output = plain_fold.finish(process, 128 + signal.SIGTERM)
    assert "SIGTERM stopped the training in epoch 0, iteration 4. Its state is saved; continue with --c." in output
    found = newest_valid_checkpoint(plain_fold.folder)
    assert found is not None and (found.state.epoch, found.state.iteration) == (0, 4)
    plain_fold.finish(plain_fold.train("--c"))  # another number of processes may continue
    assert_equal_result(of_one_process, plain_fold)


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize("what", ["raise", "SIGKILL"])
@pytest.mark.slow
def test_trouble_in_one_process_ends_all(
    of_one_process: Fold, plain_fold: Fold, nothing_left_running: list[int], rank: str, what: str
) -> None:
    process = plain_fold.train(*TWO, *EVERY_STEP, AT="train:3", DO=what, AT_RANK=rank)
    plain_fold.wait_for(process, "begin")
    nothing_left_running += descendants(process.pid)
    output = plain_fold.finish(process, 1)
    if what == "raise":
        assert "The trainer Short failed in its method obey" in output
        assert f"Process {rank} of 2 ended with status 1" in output
        assert re.search(rf"Process {rank} of 2 \(on \S+\) failed, so this training ends", output)
    else:
        assert f"Process {rank} of 2 was killed by SIGKILL." in output
        assert re.search(rf"Process {rank} of 2 \(on \S+\) is lost, so this training ends", output)
    assert "TCPStore" not in output
    plain_fold.finish(plain_fold.train(*TWO, "--c"))
    assert_equal_result(of_one_process, plain_fold)


@pytest.mark.slow
def test_processes_stop_if_the_one_that_started_them_is_killed(plain_fold: Fold) -> None:
    process = plain_fold.train(*TWO, AT="begin:3", DO="wait")
    plain_fold.wait_for(process, "begin", 3)
    children = descendants(process.pid)
    process.kill()
    process.wait()
    plain_fold.go()
    wait_until(lambda: not any(map(is_alive, children)))
    assert not any(map(is_alive, children))
    found = newest_valid_checkpoint(plain_fold.folder)
    assert found is not None and (found.state.epoch, found.state.iteration) == (0, 3)


@pytest.mark.slow
def test_ctrl_c_twice(plain_fold: Fold, nothing_left_running: list[int]) -> None:
    process = plain_fold.train(*TWO, AT="begin:3", DO="wait")
    plain_fold.wait_for(process, "begin", 3)
    nothing_left_running += descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr is not None
    while "SIGINT" not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    output = plain_fold.finish(process, 128 + signal.SIGINT)
    assert "continue with --c" in output.lower()


@pytest.mark.slow
def test_under_torchrun(of_one_process: Fold, plain_fold: Fold) -> None:
    command = [*TORCHRUN, "-m", "nnunet_pt.cli.train", *plain_fold.arguments()]
    plain_fold.finish(plain_fold.start(command))
    assert_equal_training(of_one_process, plain_fold)


@pytest.mark.slow
def test_two_processes_write_one_json_log(plain_fold: Fold) -> None:
    process = plain_fold.train(*TWO, "--json_log")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    entries = [json.loads(line) for line in out.splitlines()]
    epochs = [e for e in entries if e["event"] == "epoch"]
    assert [(e["process"], e["data"]["epoch"], e["data"]["num_epochs"]) for e in epochs] == [
        (0, n, 3) for n in range(3)
    ]
    assert [e["data"]["train_loss"] for e in epochs] == [f["train_loss"] for f in plain_fold.figures()]
    assert {e.get("process") for e in entries if e["event"] == "start"} == {None, 0, 1}
    (result,) = (e["data"]["results"] for e in entries if e["event"] == "result" and e.get("process") == 0)
    assert result[0]["output_folder"] == str(plain_fold.folder)
    assert (entries[-1]["event"], entries[-1].get("process")) == ("result", None)
