"""What shells can complete: the options of all commands and the values they take, found out from the parsers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._commands import all_parsers

CONFIGURATIONS = (*arguments.CONFIGURATIONS, "3d_cascade_fullres")
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
NOTHING, WORDS, FILE, FOLDER, DATASET = "nothing", "words", "file", "folder", "dataset"
CONFIGURATION, PLANS, TRAINER, PLANNER, FOLD = "configuration", "plans", "trainer", "planner", "fold"

# Values that are plain texts for the parser, by the longest name of the option or by the name of a positional argument
_TEXTS = {
    "-c": CONFIGURATION,
    "configuration": CONFIGURATION,
    "-p": PLANS,
    "-plans_name": PLANS,
    "--plans_identifier": PLANS,
    "-sp": PLANS,
    "-tp": PLANS,
    "-pl": PLANNER,
    "-tr": TRAINER,
    "-pretrain_tr": TRAINER,
    "-from": FILE,
    "--pretrained_checkpoint": FILE,
    "checkpoint": FILE,
    "plans": DATASET,
    "training": FOLDER,
    "-venv": FOLDER,
}
_FIXED_TEXTS = {
    "-chk": CHECKPOINTS,
    "-fpe": ("DatasetFingerprintExtractor",),
    "-preprocessor_name": ("DefaultPreprocessor",),
}
_MAX_HELP = 100


@dataclass(frozen=True, slots=True)
class Value:
    """What an argument takes.

    Attributes:
        kind: One of the kinds above.
        label: What people call it.
        words: For kind "words", what there is to choose from.
        many: Several may follow one another.
    """

    kind: str
    label: str
    words: tuple[str, ...] = ()
    many: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """An option under all its names; without a value it is a flag."""

    names: tuple[str, ...]
    about: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or one of the commands within a command.

    Attributes:
        name: Its name; for a command within a command the last word.
        options: Its options.
        positionals: Values that come without an option, in this order.
        within: Commands of which the first positional value chooses one.
    """

    name: str
    options: tuple[Option, ...]
    positionals: tuple[Value, ...]
    within: tuple[Command, ...] = field(default=())


def commands() -> list[Command]:
    """All commands."""
    return [_command(parser.prog, parser) for parser in all_parsers()]


def trainers() -> list[str]:
    """The names that ``-tr`` knows without further files."""
    from nnunet_pt.training.recipes import RECIPES

    return sorted(RECIPES)


def planners() -> list[str]:
    """The names that ``-pl`` knows."""
    from nnunet_pt.planning.presets import PLANNERS

    return sorted(PLANNERS)


def _command(name: str, parser: argparse.ArgumentParser) -> Command:
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    branches = next((a for a in actions if isinstance(a, argparse._SubParsersAction)), None)
    choices = {} if branches is None else branches.choices
    return Command(
        name=name,
        options=tuple(_option(parser, action) for action in actions if action.option_strings),
        positionals=tuple(_value(action) for action in actions if not action.option_strings and action is not branches),
        within=tuple(_command(word, chosen) for word, chosen in choices.items()),
    )


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    about = " ".join(parser._get_formatter()._expand_help(action).split())
    about = about if len(about) <= _MAX_HELP else f"{about[: _MAX_HELP - 3].rsplit(' ', 1)[0]}..."
    return Option(tuple(action.option_strings), about, None if action.nargs == 0 else _value(action))


def _value(action: argparse.Action) -> Value:
    label = str(action.metavar or action.dest)
    many = action.nargs in ("+", "*")
    if action.choices is not None:
        return Value(WORDS, label, tuple(map(str, action.choices)), many)
    names: Sequence[str] = action.option_strings or (action.dest,)
    for name in names:
        if name in _FIXED_TEXTS:
            return Value(WORDS, label, _FIXED_TEXTS[name], many)
    return Value(_kind(action, names), label, (), many)


def _kind(action: argparse.Action, names: Sequence[str]) -> str:
    if action.type is Path:
        return FOLDER if _is_folder(str(action.metavar)) else FILE
    of_type = getattr(action.type, "__name__", "")
    if of_type in ("dataset_reference", "_dataset_or_path"):
        return DATASET
    if of_type == "fold":
        return FOLD
    if of_type == "_scratch":
        return FOLDER
    if action.type is not None and action.type is not str:
        return NOTHING
    return next((_TEXTS[name] for name in reversed(names) if name in _TEXTS), NOTHING)


def _is_folder(metavar: str) -> bool:
    return metavar in ("FOLDER", "FOLD_FOLDER", "REFERENCES", "PREDICTIONS")
