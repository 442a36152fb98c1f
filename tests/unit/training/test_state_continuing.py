"""A continued training is bit-equal to one that was never interrupted, and the newest sound checkpoint is taken."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnunet_pt.core.errors import CheckpointError
from nnunet_pt.training.determinism import set_deterministic
from nnunet_pt.training.state import BEST, FINAL, LATEST, TrainingState, newest_valid_checkpoint, state_of
from nnunet_pt.transfer.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

GOLDEN = Path(os.environ.get("CONFORMANCE_GOLDEN", Path(__file__).parents[3].parent / "shared" / "golden"))
ABOUT: dict[str, Any] = {
    "init_args": {"plans": {}, "configuration": "2d", "fold": 0, "dataset_json": {}, "device": torch.device("cpu")},
    "trainer_name": "nnUNetTrainer",
    "mirroring_axes": (0, 1),
}
STEPS_PER_EPOCH = 4
Make = Callable[[nn.Module], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda n: torch.optim.SGD(n.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
    "adamw": lambda n: torch.optim.AdamW(n.parameters(), lr=0.01, amsgrad=True),
}


def a_network() -> nn.Module:
    """With parts that draw random numbers and parts that count."""
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.LeakyReLU(), nn.Conv2d(4, 3, 1)]
    return nn.Sequential(*layers)


class Training:
    """A loop as a trainer has it, reduced to what has state."""

    def __init__(self, make_optimizer: Make, seed: int = 0) -> None:
        set_deterministic(seed)
        self.network = a_network()
        self.optimizer = make_optimizer(self.network)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        self.state = TrainingState(seed=seed, recipe={"name": "nnUNetTrainer", "gradient_clip": 12.0})

    def run_to(self, last_step: int) -> None:
        state = self.state
        while state.step < last_step:
            for group in self.optimizer.param_groups:
                group["lr"] = 0.01 * (1 - state.epoch / 10) ** 0.9 * state.rate_factor
            batch = np.random.Generator(np.random.Philox(key=state.step)).normal(size=(2, 1, 8, 8))
            noise = float(np.random.random())  # noqa: NPY002 - a user's trainer may do it
            data = torch.from_numpy(batch.astype(np.float32)) + noise
            self.optimizer.zero_grad()
            loss = self.network(data).square().mean()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            state.train_losses.append(loss.item())
            state.iteration += 1
            state.step += 1
            if state.iteration == STEPS_PER_EPOCH:
                state.logging.setdefault("train_losses", []).append(float(np.mean(state.train_losses)))
                state.best_ema = state.logging["train_losses"][-1]
                state.begin_epoch(state.epoch + 1)

    def save(self, path: Path) -> None:
        write_checkpoint(path, self.state.capture(self.network, self.optimizer, self.scaler, **ABOUT))

    def load(self, path: Path) -> None:
        checkpoint = read_checkpoint(path)
        self.state = TrainingState.restore(checkpoint, path, self.network, self.optimizer, self.scaler)

    def everything(self) -> list[Any]:
        return [
            self.network.state_dict(),
            self.optimizer.state_dict(),
            self.scaler.state_dict(),
            {f.name: getattr(self.state, f.name) for f in fields(self.state)},
            torch.get_rng_state(),
        ]


@pytest.fixture(autouse=True)
def as_before() -> Any:
    """Global settings of torch and the generators stay as they were."""
    states = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("interruptions", [(1,), (4,), (6,), (3, 5, 9)])
def test_interrupted_is_bit_equal_to_uninterrupted(
    tmp_path: Path, optimizer: str, interruptions: tuple[int, ...]
) -> None:
    whole = Training(OPTIMIZERS[optimizer])
    whole.run_to(11)
    expected = whole.everything()

    training = Training(OPTIMIZERS[optimizer])
    for stop in interruptions:
        training.run_to(stop)
        training.save(tmp_path / LATEST)
        training.run_to(stop + 2)  # what a killed process loses
        training = Training(OPTIMIZERS[optimizer], seed=123)
        training.load(tmp_path / LATEST)
        assert training.state.step == stop
    training.run_to(11)
    assert same(expected, training.everything())


def test_saving_changes_nothing(tmp_path: Path) -> None:
    outcomes = []
    for save in (False, True):
        training = Training(OPTIMIZERS["sgd"])
        training.run_to(5)
        if save:
            training.save(tmp_path / LATEST)
        training.run_to(9)
        outcomes.append(training.everything())
    assert same(*outcomes)


def test_the_given_checkpoint_stays_as_it_is(tmp_path: Path) -> None:
    training = Training(OPTIMIZERS["sgd"])
    training.run_to(3)
    training.save(tmp_path / LATEST)
    checkpoint = read_checkpoint(tmp_path / LATEST)
    training.state = TrainingState.restore(checkpoint, tmp_path / LATEST, training.network, training.optimizer)
    training.run_to(7)
    assert same(checkpoint.optimizer_state, read_checkpoint(tmp_path / LATEST).optimizer_state)
    assert checkpoint.extra["nnunet_pt"]["train_losses"] != training.state.train_losses


NUMBERS = st.integers(0, 2**40)
FLOATS = st.floats(allow_nan=False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    state=st.builds(
        TrainingState,
        epoch=NUMBERS,
        iteration=NUMBERS,
        step=NUMBERS,
        train_losses=st.lists(FLOATS, max_size=4),
        skipped_steps=NUMBERS,
        non_finite_in_a_row=NUMBERS,
        returns=NUMBERS,
        rate_factor=FLOATS,
        epoch_elapsed_s=FLOATS,
        logging=st.dictionaries(st.text(max_size=5), st.lists(FLOATS, max_size=3), max_size=3),
        best_ema=st.none() | FLOATS,
        epochs_without_improvement=NUMBERS,
        seed=st.none() | NUMBERS,
        recipe=st.dictionaries(
            st.text(max_size=5), st.none() | st.booleans() | FLOATS | st.lists(st.text()), max_size=3
        ),
    )
)
def test_any_state_survives_a_round_trip(tmp_path: Path, state: TrainingState) -> None:
    network = nn.Linear(1, 1)
    optimizer = OPTIMIZERS["sgd"](network)
    write_checkpoint(tmp_path / LATEST, state.capture(network, optimizer, **ABOUT))
    read = TrainingState.restore(read_checkpoint(tmp_path / LATEST), tmp_path / LATEST, network, optimizer)
    assert read == state


def test_numpy_numbers_become_plain(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    state = TrainingState(train_losses=[np.float32(0.5)], best_ema=np.float64(0.25), seed=np.int64(3))  # type: ignore[list-item]
    write_checkpoint(tmp_path / LATEST, state.capture(network, OPTIMIZERS["sgd"](network), **ABOUT))
    content = torch.load(tmp_path / LATEST, weights_only=True)
    assert content["nnunet_pt"]["train_losses"] == [0.5]
    assert type(content["nnunet_pt"]["seed"]) is int


def test_checkpoints_of_nnunet_begin_an_epoch() -> None:
    files = sorted(GOLDEN.glob("models/*/model/fold_*/checkpoint_final.pth"))
    if not files:
        pytest.skip(f"there are no recorded checkpoints in {GOLDEN} (CONFORMANCE_GOLDEN)")
    for path in files:
        checkpoint = read_checkpoint(path)
        state = state_of(checkpoint, path)
        assert (state.epoch, state.iteration, state.train_losses) == (checkpoint.current_epoch, 0, [])
        assert len(state.logging["ema_fg_dice"]) == state.epoch
        assert state.best_ema == pytest.approx(max(state.logging["ema_fg_dice"]))
        assert state.rate_factor == 1.0


def a_checkpoint(epoch: int = 0, iteration: int = 0) -> Checkpoint:
    network = nn.Linear(2, 2)
    state = TrainingState(epoch=epoch, iteration=iteration)
    return state.capture(network, OPTIMIZERS["sgd"](network), **ABOUT)


def write_all(folder: Path, progress: dict[str, tuple[int, int]]) -> None:
    for name, (epoch, iteration) in progress.items():
        write_checkpoint(folder / name, a_checkpoint(epoch, iteration))


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        ({LATEST: (5, 3), BEST: (4, 0)}, LATEST),
        ({LATEST: (5, 3), BEST: (6, 0)}, BEST),
        ({LATEST: (5, 3), BEST: (5, 7)}, BEST),
        ({FINAL: (10, 0), LATEST: (9, 0), BEST: (8, 0)}, FINAL),
        ({FINAL: (10, 0), LATEST: (12, 1), BEST: (8, 0)}, LATEST),
        ({FINAL: (10, 0), LATEST: (10, 0), BEST: (10, 0)}, FINAL),
        ({LATEST: (10, 0), BEST: (10, 0)}, LATEST),
    ],
)
def test_the_one_that_got_farthest(tmp_path: Path, progress: dict[str, tuple[int, int]], expected: str) -> None:
    write_all(tmp_path, progress)
    found = newest_valid_checkpoint(tmp_path)
    assert found is not None
    assert found.path == tmp_path / expected
    assert (found.state.epoch, found.state.iteration) == progress[expected]


@pytest.mark.parametrize("folder", ["", "missing"])
def test_no_checkpoint(tmp_path: Path, folder: str) -> None:
    assert newest_valid_checkpoint(tmp_path / folder) is None


@pytest.mark.parametrize("share", [0, 0.3, 0.95, 1])
def test_damaged_ones_are_named_and_skipped(tmp_path: Path, share: float, caplog: pytest.LogCaptureFixture) -> None:
    write_all(tmp_path, {LATEST: (5, 3), BEST: (4, 0)})
    content = bytearray((tmp_path / LATEST).read_bytes())
    if share == 1:  # whole, but a byte of a weight has changed
        weight = read_checkpoint(tmp_path / LATEST).network_weights["weight"].numpy().tobytes()
        content[content.index(weight)] ^= 0x10
    (tmp_path / LATEST).write_bytes(content[: int(share * len(content))])
    with caplog.at_level(logging.WARNING, "nnunet_pt"):
        found = newest_valid_checkpoint(tmp_path)
    assert found is not None
    assert found.path.name == BEST
    (record,) = caplog.records
    assert str(tmp_path / LATEST) in record.getMessage()


def test_all_damaged(tmp_path: Path) -> None:
    write_all(tmp_path, {LATEST: (5, 3), BEST: (4, 0)})
    for path in list(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError) as error:
        newest_valid_checkpoint(tmp_path)
    assert all(str(tmp_path / name) in str(error.value) for name in (LATEST, BEST))


def test_another_network() -> None:
    network = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=r"weights of another network(.|\n)*weight: 2 x 2, network 2 x 3"):
        TrainingState.restore(a_checkpoint(), Path("a.pth"), network, OPTIMIZERS["sgd"](network))


def test_another_optimizer() -> None:
    network = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"another optimiser(.|\n)*has 'momentum'; lacks 'betas'(.|\n)*AdamW"):
        TrainingState.restore(a_checkpoint(), Path("a.pth"), network, OPTIMIZERS["adamw"](network))
    fewer = torch.optim.SGD([network.weight], lr=1.0, momentum=0.9)
    with pytest.raises(CheckpointError, match=r"groups of \[2\] parameters instead of \[1\]"):
        TrainingState.restore(a_checkpoint(), Path("a.pth"), network, fewer)


def test_checkpoints_reduced_to_prediction_cannot_be_continued() -> None:
    network = nn.Linear(2, 2)
    checkpoint = replace(a_checkpoint(), optimizer_state=None)
    with pytest.raises(CheckpointError, match=r"cannot be continued(.|\n)*-pretrained_weights"):
        TrainingState.restore(checkpoint, Path("a.pth"), network, OPTIMIZERS["sgd"](network))


@pytest.mark.parametrize(("own", "expected"), [({"format": 99}, "format 99"), (7, "int")])
def test_state_of_a_newer_version(own: Any, expected: str) -> None:
    checkpoint = replace(a_checkpoint(), extra={"nnunet_pt": own})
    with pytest.raises(CheckpointError, match=expected):
        state_of(checkpoint, Path("a.pth"))


def test_weights_keep_nnunet_form(tmp_path: Path) -> None:
    training = Training(OPTIMIZERS["sgd"])
    training.run_to(2)
    training.network = nn.DataParallel(training.network)
    training.save(tmp_path / LATEST)
    content = torch.load(tmp_path / LATEST, weights_only=True)
    assert type(content["network_weights"]) is OrderedDict
    assert next(iter(content["network_weights"])) == "0.weight"
    assert set(content["nnunet_pt"]) >= {"format", "iteration", "random_states", "recipe", "seed"}
