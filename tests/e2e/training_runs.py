"""Trainings with the real command, which stop themselves or are stopped at moments that a test chooses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_pt.training.state import FINAL
from nnunet_pt.transfer.checkpoint import read_checkpoint

PATIENCE_S = 300
DATASET = "Dataset007_Small"
ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": "torch.nn.modules.dropout.Dropout3d",  # so that random states matter
        "dropout_op_kwargs": {"p": 0.2},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
# Each step (and each pass of the final validation) is a line in the file "events" of the process. At the event AT the
# process AT_RANK does what DO says: it sends itself a signal (SIGKILL within the writing of a checkpoint for an event
# "save"), kills one of its workers, raises an error, fills the disk of the results, makes space there, or waits until
# there is a file "go" (wait_again: "go_again"). AT and DO may be lists.
TRAINER = """
import contextlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import torch

from nnunet_pt.training import saving
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.trainer import Trainer

WRITE = saving.write_checkpoint
SAVE = torch.save
FOLDER = Path(__file__).parent
FILLER = FOLDER / "results" / "filler"
counts = {}


def happened(kind, value=0.0):
    counts[kind] = counts.get(kind, 0) + 1
    event = f"{kind}:{counts[kind]}"
    rank = os.environ.get("RANK", "0")
    with (FOLDER / f"events_{rank}").open("a") as file:
        file.write(f"{event} {value!r}\\n")
    orders = dict(zip(os.environ.get("AT", "").split(), os.environ.get("DO", "").split()))
    return orders.get(event) if os.environ.get("AT_RANK", "0") == rank else None


def obey(order):
    if order == "raise":
        raise ValueError("an error in the user's own code")
    if order in ("wait", "wait_again"):
        while not (FOLDER / order.replace("wait", "go")).exists():
            time.sleep(0.01)
    elif order == "killworker":
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    elif order == "fill":
        with FILLER.open("ab", 0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))
    elif order == "free":
        FILLER.unlink()
    elif order:
        os.kill(os.getpid(), getattr(signal, order))


class HalfWritten:
    def __init__(self, file):
        self.file = file

    def write(self, content):
        self.file.write(bytes(content)[: len(content) // 2])
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def flush(self):
        self.file.flush()


def save(content, file):
    order = happened("save")
    SAVE(content, HalfWritten(file) if order == "SIGKILL" else file)


torch.save = save


class Short(Trainer):
    recipe = TrainingRecipe(
        name="Short", num_epochs=3, iterations_per_epoch=4, validation_iterations_per_epoch=2, precision="fp32"
    )

    def build_optimizer(self, network):
        def hook(module, inputs):
            if not module.deep_supervision:
                obey(happened("final"))

        network.register_forward_pre_hook(hook)
        return super().build_optimizer(network)

    def train_step(self, data, targets):
        obey(happened("begin"))
        loss = super().train_step(data, targets)
        obey(happened("train", float(loss.detach())))
        return loss

    def validation_step(self, data, targets):
        result = super().validation_step(data, targets)
        obey(happened("val", float(result[0])))
        return result
"""
STARTED: list[subprocess.Popen[str]] = []
EVERY_STEP = ("-save_every_minutes", "0.000001")


@dataclass(frozen=True)
class Fold:
    """Fold 0 of a small dataset."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "preprocessed" / DATASET / "nnUNetPlans_3d_fullres"

    @property
    def results(self) -> Path:
        return self.root / "results" / DATASET

    @property
    def folder(self) -> Path:
        return self.results / "Short__nnUNetPlans__3d_fullres" / "fold_0"

    @property
    def log(self) -> str:
        """All text logs."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("training_log_*.txt")))

    @property
    def environment(self) -> dict[str, str]:
        own = {f"nnUNet_{n}": str(self.root / n) for n in ("raw", "preprocessed", "results")}
        # Threads that wait busily for others on a machine that has more to do than CPUs would make this very slow
        return {**os.environ, **own, "nnUNet_n_proc_DA": "1", "OMP_WAIT_POLICY": "passive"}

    def arguments(self, *more: str) -> list[str]:
        trainer = f"{self.root / 'trainer.py'}:Short"
        return ["7", "3d_fullres", "0", "-tr", trainer, "-device", "cpu", "-seed", "5", "--deterministic", *more]

    def start(self, command: Sequence[str], **env: str) -> subprocess.Popen[str]:
        for name in ("events_0", "events_1", "go", "go_again"):
            (self.root / name).unlink(missing_ok=True)
        process = subprocess.Popen(
            command,
            env={**self.environment, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        STARTED.append(process)
        return process

    def train(self, *more: str, **env: str) -> subprocess.Popen[str]:
        """Start the command, with an environment that may say what happens in it, see TRAINER."""
        return self.start([sys.executable, "-m", "nnunet_pt.cli.train", *self.arguments(*more)], **env)

    def go(self, name: str = "go") -> None:
        """Let a training go on that waits."""
        (self.root / name).touch()

    def finish(self, process: subprocess.Popen[str], status: int = 0) -> str:
        """Wait for the end, check the exit status, and return what was printed."""
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"it did not end:\n{out}{err}") from None
        assert process.returncode == status, f"exit status {process.returncode}\n{out}{err}"
        assert "Traceback" not in err
        assert "This is a bug" not in err
        return out + err

    def events(self, kind: str, rank: int = 0) -> list[float]:
        """The values of the events of a kind in the last run."""
        file = self.root / f"events_{rank}"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [float(line.split()[1]) for line in lines if line.startswith(f"{kind}:") and len(line.split()) == 2]

    def wait_for(self, process: subprocess.Popen[str], kind: str, number: int = 1) -> None:
        """Wait until a run has come to an event, or ended."""
        wait_until(lambda: len(self.events(kind)) >= number or process.poll() is not None)

    def state(self, name: str = FINAL) -> dict[str, Any]:
        """Everything in a checkpoint but times."""
        checkpoint = read_checkpoint(self.folder / name)
        own = {k: v for k, v in checkpoint.extra["nnunet_pt"].items() if not k.startswith("epoch_")}
        logging = {k: v for k, v in checkpoint.logging.items() if not k.endswith("timestamps")}
        return {
            "weights": checkpoint.network_weights,
            "optimizer": checkpoint.optimizer_state,
            "logging": logging,
            "best": checkpoint.best_ema,
            "epoch": checkpoint.current_epoch,
            "own": own,
        }

    def figures(self) -> list[dict[str, Any]]:
        """Every figure of every epoch but times and memory."""
        measured = ("seconds", "data_wait_share", "peak_memory_gb", "started", "ended")
        lines = [json.loads(line) for line in (self.folder / "progress.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in measured} for line in lines]

    def predictions(self) -> dict[str, bytes]:
        """What the final validation has written."""
        return {p.name: p.read_bytes() for p in sorted((self.folder / "validation").iterdir()) if p.suffix == ".gz"}

    def leftovers(self) -> list[Path]:
        return [p for p in self.root.rglob("*") if p.name.startswith(".partial-")]


def end_started() -> None:
    """Kill what a failed test has left running."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            for pid in descendants(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.kill()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        process.wait()


def assert_same_training(one: Fold, other: Fold) -> None:
    """Two trainings ended equal, bit by bit."""
    assert differences(one.state(), other.state()) == []
    assert one.figures() == other.figures()
    assert one.predictions() == other.predictions()


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two nested values differ."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    if isinstance(one, dict) and isinstance(other, dict):
        if list(one) != list(other):
            return [f"{place}: {list(one)} {list(other)}"]
        return [found for key in one for found in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [found for index, pair in pairs for found in differences(*pair, f"{place}[{index}]")]
    both_nan = one != one and other != other
    return [] if type(one) is type(other) and (one == other or both_nan) else [f"{place}: {one!r} {other!r}"]


def wait_until(condition: Callable[[], object], *, seconds: float = PATIENCE_S) -> None:
    """Ask again and again; a condition that does not come true is noticed by what follows."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """Child processes and theirs, whichever thread started them."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            children += map(int, path.read_text().split())
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
