"""Trainings in phases: what they train and what not, bit by bit, also when they are interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from tiny_training import TinyTraining, checkpoint, recorded_recipe, text_log
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_pt.core.errors import CheckpointError, TrainingError, UsageError
from nnunet_pt.training.trainer import Trainer

Weights = Mapping[str, Tensor]


class Watching(Trainer):
    """Notes weights and optimiser at the beginning of each epoch's validation; starts with the initial weights."""

    weights: ClassVar[list[dict[str, Tensor]]]
    momenta: ClassVar[list[dict[str, Tensor]]]
    rates: ClassVar[list[list[float]]]
    stop_at: ClassVar[tuple[int, int] | None] = None

    def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
        if self.stop_at == (self.state.epoch, self.state.iteration):
            self.save("checkpoint_latest.pth")
            raise Left
        if not self.weights:
            self.note()
        self.rates.append([group["lr"] for group in self.optimizer.param_groups])
        return super().train_step(data, targets)

    def validation_step(self, data: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
        self.note()
        return super().validation_step(data, targets)

    def note(self) -> None:
        network = self.parts.network.bare
        self.weights.append({n: t.clone() for n, t in network.state_dict().items()})
        states = {n: self.optimizer.state.get(p, {}) for n, p in network.named_parameters()}
        self.momenta.append({n: s["momentum_buffer"].clone() for n, s in states.items() if "momentum_buffer" in s})
        assert all(p.grad is None for p in network.parameters() if not p.requires_grad)


class Left(BaseException):
    """A training ends here as if it was killed."""


def watching(stop_at: tuple[int, int] | None = None) -> type[Watching]:
    return type("Watching", (Watching,), {"weights": [], "momenta": [], "rates": [], "stop_at": stop_at})


def changed(before: Weights, after: Weights, names: str = "") -> set[str]:
    return {n for n in before if n.startswith(names) and not torch.equal(before[n], after[n])}


def parameters(weights: Weights) -> set[str]:
    return {n for n in weights if not n.startswith("decoder.encoder.") and ".all_modules." not in n}


PHASES: dict[str, Any] = {"num_epochs": 4, "head_epochs": 2, "warmup_epochs": 1, "iterations_per_epoch": 3}


# ---------------------------------------------------------------- heads first


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerBN"])
def test_only_the_decoder_is_trained_at_first(tiny: TinyTraining, trainer: str) -> None:
    watcher = watching()
    tiny.run("2d", trainer=trainer, trainer_class=watcher, recipe=PHASES)
    start, first, second, third, last = watcher.weights
    assert changed(start, second, "encoder.") == set()
    assert changed(start, first, "decoder.seg_layers") and changed(first, second, "decoder.stages")
    assert changed(second, third, "encoder.stages.0") and changed(third, last, "encoder.stages.0")
    if trainer == "nnUNetTrainerBN":  # the statistics, too
        assert any("running_mean" in n for n in changed(start, first, "decoder.stages"))
        assert any("running_mean" in n for n in changed(second, third, "encoder."))
    log = text_log(tiny.folder("2d", trainer=trainer))
    assert "Only the decoder is trained" in log and "The optimiser starts afresh." in log


def test_the_optimiser_starts_afresh_with_the_whole_network(tiny: TinyTraining) -> None:
    watcher = watching()
    tiny.run("2d", trainer_class=watcher, recipe=PHASES)
    assert not any(n.startswith("encoder.") for n in watcher.momenta[2])
    assert any(n.startswith("encoder.") for n in watcher.momenta[3])
    final = checkpoint(tiny.folder("2d")).optimizer_state
    assert final is not None and len(final["param_groups"]) == 1
    rates = [rates[0] for rates in watcher.rates]
    assert rates == pytest.approx([0.01] * 6 + [0.01] * 3 + [0.01] * 3)


STOPS = [(0, 2), (1, 0), (2, 0), (2, 1), (3, 0)]
KINDS: dict[str, dict[str, Any]] = {
    "heads": {"recipe": PHASES},
    "adamw": {"recipe": {**PHASES, "optimizer": "adamw"}},
    "freeze": {"recipe": {**PHASES, "head_epochs": 0}, "freeze": ("encoder",), "freeze_epochs": 2},
    "both": {"recipe": PHASES, "freeze": ("decoder.stages", "encoder.stages.0"), "freeze_epochs": 3},
    "factors": {"recipe": {**PHASES, "head_epochs": 0}, "lr_factors": ("encoder=0.1", "decoder.seg_layers=3")},
}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize("stop_at", STOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_trainings_end_as_others(tiny: TinyTraining, kind: str, stop_at: tuple[int, int]) -> None:
    options: dict[str, Any] = {**KINDS[kind], "deterministic": True}
    tiny.run("2d", **options)
    whole = checkpoint(tiny.folder("2d"))
    with pytest.raises(Left):
        tiny.run("2d", trainer_class=watching(stop_at), **options)
    left = checkpoint(tiny.folder("2d"), "latest")
    assert (left.current_epoch, left.extra["nnunet_pt"]["iteration"]) == stop_at
    tiny.run("2d", continue_training=True, deterministic=True, recipe=options["recipe"])  # freeze is in recipe.json
    continued = checkpoint(tiny.folder("2d"))
    assert equal(whole.network_weights, continued.network_weights)
    assert equal(whole.optimizer_state, continued.optimizer_state)
    for key in ("train_losses", "val_losses", "mean_fg_dice", "lrs"):
        assert whole.logging[key] == continued.logging[key]


def test_more_epochs_than_planned_leave_the_stage_that_was_saved(tiny: TinyTraining) -> None:
    """What ended with the heads alone goes on with all layers, if it is given more epochs."""
    tiny.run("2d", recipe={"num_epochs": 2, "head_epochs": 2})
    before = checkpoint(tiny.folder("2d"))
    assert before.extra["nnunet_pt"]["stage"] == "heads"
    tiny.run("2d", continue_training=True, epochs=3, recipe={"num_epochs": 2, "head_epochs": 2})
    after = checkpoint(tiny.folder("2d"))
    assert after.extra["nnunet_pt"]["stage"] == "all" and after.current_epoch == 3
    assert changed(before.network_weights, after.network_weights, "encoder.")


# ---------------------------------------------------------------- frozen layers


@pytest.mark.parametrize("trainer", ["nnUNetTrainerBN", "nnUNetTrainerAdam"])
def test_frozen_layers_stay_as_they_are(tiny: TinyTraining, trainer: str) -> None:
    watcher = watching()
    recipe = {"num_epochs": 2, "iterations_per_epoch": 3}
    tiny.run("2d", trainer=trainer, trainer_class=watcher, recipe=recipe, freeze=("encoder.stages.0-1",))
    start, last = watcher.weights[0], watcher.weights[-1]
    assert changed(start, last, "encoder.stages.0") == changed(start, last, "encoder.stages.1") == set()
    trained = {n for n in parameters(start) if not n.startswith(("encoder.stages.0", "encoder.stages.1"))}
    assert {n for n in trained if n.endswith("weight") and "seg" not in n} <= changed(start, last)
    folder = tiny.folder("2d", trainer=trainer)
    final = checkpoint(folder)
    assert changed(start, final.network_weights, "encoder.stages.0") == set()
    assert final.optimizer_state is not None
    own = {n for n in trained if n.endswith(("weight", "bias"))}
    assert len(final.optimizer_state["state"]) <= len(final.optimizer_state["param_groups"][0]["params"]) == len(own)
    assert "all but what is frozen (encoder.stages.0-1)" in text_log(folder)
    assert recorded_recipe(folder).freeze == ("encoder.stages.0-1",)


def test_frozen_layers_are_trained_after_a_while(tiny: TinyTraining) -> None:
    """The others keep their momentum, theirs starts at zero; the last checkpoint is like any other."""
    watcher = watching()
    recipe = {"num_epochs": 3, "iterations_per_epoch": 3, "validation_iterations_per_epoch": 1}
    tiny.run("2d", trainer_class=watcher, recipe=recipe, freeze=("encoder",), freeze_epochs=2)
    _, first, second, last = watcher.weights
    assert changed(first, second, "encoder.") == set() and changed(second, last, "encoder.")
    assert not any(n.startswith("encoder.") for n in watcher.momenta[2])
    log = text_log(tiny.folder("2d"))
    assert "keeps what it knows of the layers that were trained before" in log
    final = checkpoint(tiny.folder("2d")).optimizer_state
    tiny.run("2d", 1, recipe=recipe)
    usual = checkpoint(tiny.folder("2d", 1)).optimizer_state
    assert final is not None and usual is not None
    assert final["param_groups"] == usual["param_groups"] and list(final["state"]) == list(usual["state"])


def test_momentum_is_kept_when_layers_are_added(tiny: TinyTraining) -> None:
    kept: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    class Comparing(Trainer):
        before: ClassVar[dict[str, Tensor]] = {}

        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            now = {
                n: self.optimizer.state[p]["momentum_buffer"].clone()
                for n, p in self.parts.network.bare.named_parameters()
                if p in self.optimizer.state
            }
            if self.state.epoch == 1 and not self.state.iteration:
                kept.append((dict(self.before), now))
            return super().train_step(data, targets)

        def validation_step(self, data: Tensor, targets: list[Tensor]) -> tuple[Tensor, Tensor]:
            for n, p in self.parts.network.bare.named_parameters():
                if p in self.optimizer.state:
                    self.before[n] = self.optimizer.state[p]["momentum_buffer"].clone()
            return super().validation_step(data, targets)

    tiny.run("2d", trainer_class=Comparing, recipe={"num_epochs": 2}, freeze=("encoder",), freeze_epochs=1)
    ((before, now),) = kept
    assert before and len(now) > len(before)
    assert all(torch.equal(before[n], now[n]) for n in before)
    assert all(not t.any() for n, t in now.items() if n not in before)


@pytest.mark.parametrize("fresh", [True, False])
def test_losses_that_are_not_finite_lead_back_to_the_beginning_of_a_stage(tiny: TinyTraining, fresh: bool) -> None:
    """The state to return to is one of the optimiser in use."""
    sums: list[float] = []

    class Spoilt(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            loss = super().train_step(data, targets)
            sums.append(sum(float(p.detach().double().sum()) for p in self.parts.network.parameters()))
            return loss * torch.nan if 10 <= self.state.step < 15 else loss

    heads = {"head_epochs": 1} if fresh else {}
    recipe = {"num_epochs": 2, "iterations_per_epoch": 8, **heads}
    options: dict[str, Any] = {} if fresh else {"freeze": ("encoder",), "freeze_epochs": 1}
    tiny.run("2d", trainer_class=Spoilt, recipe=recipe, **options)
    assert sums[15] == sums[8] != sums[14]
    assert checkpoint(tiny.folder("2d")).extra["nnunet_pt"]["returns"] == 1


@pytest.mark.parametrize("option", ["freeze", "lr_factors"])
def test_an_optimiser_of_ones_own(tiny: TinyTraining, option: str) -> None:
    class Own(Watching):
        weights: ClassVar[list[dict[str, Tensor]]] = []
        momenta: ClassVar[list[dict[str, Tensor]]] = []
        rates: ClassVar[list[list[float]]] = []

        def build_optimizer(self, network: nn.Module) -> Optimizer:
            return torch.optim.RMSprop(network.parameters(), lr=1.0)

    if option == "freeze":
        tiny.run("2d", trainer_class=Own, freeze=("encoder",))
        assert changed(Own.weights[0], Own.weights[-1], "encoder.") == set()
        assert changed(Own.weights[0], Own.weights[-1], "decoder.stages")
    else:
        with pytest.raises(TrainingError, match="-lr_factor has no effect with this trainer"):
            tiny.run("2d", trainer_class=Own, lr_factors=("encoder=0.1",))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"freeze": ("encoder.stage.0",)}, UsageError, "No layer matches 'encoder.stage.0' in -freeze"),
        ({"freeze": ("encoder", "decoder")}, TrainingError, "Nothing is left to be trained"),
        ({"lr_factors": ("encodre=0.1",)}, UsageError, "No layer matches 'encodre' in -lr_factor"),
        ({"lr_factors": ("encoder",)}, TrainingError, "'encoder' in lr_factors is no factor"),
        ({"freeze_epochs": 2}, TrainingError, "freeze_epochs without freeze"),
    ],
)
def test_layers_that_cannot_be_meant(
    tiny: TinyTraining, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        tiny.run("2d", **options)
    assert text in str(caught.value)
    assert not list(tiny.folder("2d").glob("*.pth"))


def test_wrong_layers_leave_an_earlier_training_alone(tiny: TinyTraining) -> None:
    tiny.run("2d")
    with pytest.raises(UsageError):
        tiny.run("2d", freeze=("encodre",))
    assert (tiny.folder("2d") / "checkpoint_final.pth").is_file()
    assert not list(tiny.folder("2d").glob("replaced_*"))
    assert recorded_recipe(tiny.folder("2d")).freeze == ()


def test_factors_are_those_of_the_groups(tiny: TinyTraining) -> None:
    watcher = watching()
    tiny.run("2d", trainer_class=watcher, lr_factors=("encoder=0.1", "decoder.seg_layers=3"))
    assert [sorted(rates) for rates in watcher.rates] == [pytest.approx([0.001, 0.01, 0.03])] * 2
    assert [float(lr) for lr in checkpoint(tiny.folder("2d")).logging["lrs"]] == [pytest.approx(0.01)]


def test_other_factors_when_continuing(tiny: TinyTraining) -> None:
    recipe = {"num_epochs": 2}
    with pytest.raises(Left):
        tiny.run("2d", trainer_class=watching((1, 0)), recipe=recipe, lr_factors=("encoder=0.1",))
    watcher = watching()
    tiny.run("2d", continue_training=True, trainer_class=watcher, recipe=recipe, lr_factors=("encoder=0.5",))
    ratio = [max(rates) / min(rates) for rates in watcher.rates]
    assert ratio == pytest.approx([2.0, 2.0])


def test_other_frozen_layers_when_continuing(tiny: TinyTraining) -> None:
    """The optimiser is restored for what it was saved for, and then follows the new choice."""
    tiny.run("2d", freeze=("encoder",))
    watcher = watching()
    tiny.run("2d", continue_training=True, epochs=2, freeze=("decoder",), trainer_class=watcher)
    start, last = watcher.weights[0], watcher.weights[-1]
    assert changed(start, last, "decoder.stages") == set() and changed(start, last, "encoder.")
    assert all(not t.any() for t in watcher.momenta[0].values())


def test_other_groups_when_continuing_need_another_optimiser(tiny: TinyTraining) -> None:
    tiny.run("2d")
    with pytest.raises(CheckpointError, match="another optimiser") as caught:
        tiny.run("2d", continue_training=True, epochs=2, lr_factors=("encoder=0.1",))
    assert "--c -reset_optimizer" in (caught.value.remedy or "")
    assert recorded_recipe(tiny.folder("2d")).lr_factors == ()
    assert tiny.run("2d", continue_training=True, epochs=2).epochs == 2  # as if nothing had been tried


# ---------------------------------------------------------------- a new optimiser, or an old one


def test_continuing_with_a_new_optimiser(tiny: TinyTraining) -> None:
    tiny.run("2d", recipe={"num_epochs": 2})
    folder = tiny.folder("2d")
    before = checkpoint(folder)
    watcher = watching()
    result = tiny.run(
        "2d", continue_training=True, reset_optimizer=True, freeze=("encoder",), trainer_class=watcher, epochs=1
    )
    assert result.epochs == 1
    assert changed(before.network_weights, watcher.weights[0]) == set()
    assert all(not t.any() for t in watcher.momenta[0].values())
    assert "-reset_optimizer" in text_log(folder) and "checkpoint_final.pth (2 epochs)" in text_log(folder)
    kept = [p.name for p in folder.glob("replaced_*/*.pth")]
    assert "checkpoint_final.pth" in kept
    assert len(checkpoint(folder).logging["lrs"]) == 1
    assert "There is no checkpoint" not in text_log(folder)


def test_a_reset_that_is_interrupted_can_be_continued(tiny: TinyTraining) -> None:
    recipe = {"num_epochs": 2}
    tiny.run("2d", recipe=recipe)
    before = checkpoint(tiny.folder("2d"))

    class Killed(Trainer):
        def train_step(self, data: Tensor, targets: list[Tensor]) -> Tensor:
            del data, targets
            raise Left

    with pytest.raises(Left):
        tiny.run("2d", continue_training=True, reset_optimizer=True, trainer_class=Killed, recipe=recipe)
    watcher = watching()
    result = tiny.run("2d", continue_training=True, trainer_class=watcher, recipe=recipe)
    assert changed(before.network_weights, watcher.weights[0]) == set()
    assert len(watcher.rates) == 4 and result.epochs == 2


def test_the_optimiser_of_another_model(tiny: TinyTraining) -> None:
    tiny.run("2d", "all")
    source = tiny.folder("2d", "all") / "checkpoint_final.pth"
    first, second = watching(), watching()
    tiny.run("2d", trainer_class=first, pretrained_weights=source, keep_optimizer=True)
    tiny.run("2d", trainer_class=second, pretrained_weights=source, reset_optimizer=True)
    momenta = first.momenta[0]
    theirs = checkpoint(tiny.folder("2d", "all")).optimizer_state
    assert theirs is not None
    saved = [theirs["state"][n]["momentum_buffer"] for n in theirs["param_groups"][0]["params"]]
    for (name, momentum), expected in zip(momenta.items(), saved, strict=True):
        heads = ".seg_layers." in name
        assert torch.equal(momentum, expected) != heads or not expected.any(), name
    assert all(not t.any() for t in second.momenta[0].values())
    assert "The optimiser goes on with what it knew of" in text_log(tiny.folder("2d"))


def test_the_optimiser_of_another_kind_cannot_be_kept(tiny: TinyTraining) -> None:
    tiny.run("2d", "all")
    source = tiny.folder("2d", "all") / "checkpoint_final.pth"
    with pytest.raises(CheckpointError, match="another kind of optimiser") as caught:
        tiny.run("2d", trainer="nnUNetTrainerAdam", pretrained_weights=source, keep_optimizer=True)
    assert "--keep_optimizer" in (caught.value.remedy or "")
