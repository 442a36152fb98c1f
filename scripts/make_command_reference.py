"""Write documentation/reference/commands.md from the parsers, so that it says what the commands do.

python scripts/make_command_reference.py
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "documentation" / "reference" / "commands.md"

MODULES = (
    "plan_and_preprocess",
    "extract_fingerprint",
    "plan_experiment",
    "preprocess",
    "train",
    "train_pretrained",
    "preprocess_like_nnssl",
    "plan_like_dynamic",
    "inspect_weights",
    "finetune",
    "predict",
    "predict_from_modelfolder",
    "evaluate_folder",
    "evaluate_simple",
    "accumulate_crossval_results",
    "find_best_configuration",
    "ensemble",
    "determine_postprocessing",
    "apply_postprocessing",
    "export_model_to_zip",
    "install_pretrained_model_from_zip",
    "download_pretrained_model_by_url",
    "plot_overlay_pngs",
    "move_plans_between_datasets",
    "convert_msd_dataset",
    "convert_old_nnunet_dataset",
)

USUAL_GROUPS = ("positional arguments", "options", "optional arguments")

INTRODUCTION = """\
# Commands

Written by `scripts/make_command_reference.py` from the commands themselves; `--help` says the same.

Datasets are given by number (`4`, `004`) or full name (`Dataset004_Hippocampus`). `nnUNetv2_extract_fingerprint`,
`nnUNetv2_plan_experiment` and `nnUNetv2_preprocess` name unknown arguments and go on without them, as in nnU-Net; the
others reject them. In what follows, `N+` stands for one or several values.

| exit status | meaning |
|---|---|
| 0 | done |
| 1 | a problem with the data or the machine; the message says which, and what to do |
| 2 | wrong arguments |
| 3 | some images could not be predicted; the others are, and the messages and `prediction_report.json` say why |
| 70 | a bug in nnunet_pt |
| 130 | stopped with Ctrl-C |
| 141 | the reader of the output went away |
| 143 | terminated (SIGTERM, as SLURM sends it before the wall-time limit) |

A training that ends with 130 or 143 has saved its state, unless its message says otherwise: the same command with `--c`
continues. A prediction continues with `--continue_prediction`, the other commands when they are simply run again.
Messages go to standard output, errors and progress to standard error.
"""


def reference() -> str:
    """The whole page."""
    parsers = [importlib.import_module(f"nnunet_pt.cli.{module}").build_parser() for module in MODULES]
    return "\n".join([INTRODUCTION, *(section(parser) for parser in parsers)])


def section(parser: argparse.ArgumentParser) -> str:
    """One command."""
    description = " ".join((parser.description or "").split())
    examples = "\n".join(line.strip() for line in (parser.epilog or "").splitlines()[1:])
    named = [group for group in parser._action_groups if group.title not in USUAL_GROUPS]
    of_named = {id(action) for group in named for action in group._group_actions}
    others = [action for action in parser._actions if id(action) not in of_named]
    lines = [f"## {parser.prog}\n", description, "\n```sh", examples, "```\n", *table(parser, others)]
    for group in named:
        about = f" ({group.description})" if group.description else ""
        title = f"{group.title}{about}:"
        lines += [title[0].upper() + title[1:], "", *table(parser, group._group_actions)]
    return "\n".join(lines)


def table(parser: argparse.ArgumentParser, actions: Sequence[argparse.Action]) -> list[str]:
    """Lines of a table of arguments."""
    rows = [row(parser, action) for action in actions if not isinstance(action, argparse._HelpAction)]
    return ["| argument | meaning |", "|---|---|", *rows, ""]


def row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """One argument."""
    name = ", ".join(f"`{option}`" for option in action.option_strings)
    if action.nargs != 0:
        value = action.metavar or ",".join(action.choices or ()) or action.dest
        value = f"{value}{'+' if action.nargs == '+' else ''}"
        name = f"{name} `{value}`".strip()
    text = parser._get_formatter()._expand_help(action)
    required = "**Required.** " if action.required and action.option_strings else ""
    return f"| {name} | {required}{text[0].upper()}{text[1:]} |"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"written: {TARGET}")
