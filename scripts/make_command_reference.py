"""Write documentation/reference/commands.md from the parsers, so that it says what the commands do.

python scripts/make_command_reference.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_pt.cli._commands import all_parsers

TARGET = Path(__file__).resolve().parent.parent / "documentation" / "reference" / "commands.md"

INTRODUCTION = """\
# Commands

Written by `scripts/make_command_reference.py` from the commands themselves; `--help` says the same.

Datasets are given by number (`4`, `004`) or full name (`Dataset004_Hippocampus`). `nnUNetv2_extract_fingerprint`,
`nnUNetv2_plan_experiment` and `nnUNetv2_preprocess` name unknown arguments and go on without them, as in nnU-Net; the
others reject them. In what follows, `N+` stands for one or several values. What commands print, in words or as JSON,
with or without colours, is described in [messages](messages.md).

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
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(section(parser) for parser in all_parsers())])


def section(parser: argparse.ArgumentParser) -> str:
    """One command."""
    description = " ".join((parser.description or "").split())
    examples = "\n".join(line.strip() for line in (parser.epilog or "").splitlines()[1:])
    return "\n".join([f"## {parser.prog}\n", description, "\n```sh", examples, "```\n", *tables(parser)])


def tables(parser: argparse.ArgumentParser) -> list[str]:
    """Lines of a table of arguments, by groups; then one of each command within the command."""
    parser.format_help()  # puts the groups in order
    lines = ["| argument | meaning |", "|---|---|"]
    branches: list[argparse._SubParsersAction[argparse.ArgumentParser]] = []
    for group in parser._action_groups:
        branches += [a for a in group._group_actions if isinstance(a, argparse._SubParsersAction)]
        shown = [a for a in group._group_actions if not isinstance(a, argparse._SubParsersAction)]
        if rows := [row(parser, a) for a in shown if not isinstance(a, argparse._HelpAction)]:
            about = group.description or ""
            lines += [f"| **{group.title}** | {about[:1].upper()}{about[1:]} |", *rows]
    lines.append("")
    for branch in branches:
        for chosen in branch.choices.values():
            lines += [f"### {chosen.prog}\n", " ".join((chosen.description or "").split()), "", *tables(chosen)]
    return lines


def row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """One argument."""
    name = ", ".join(f"`{option}`" for option in action.option_strings)
    if action.nargs != 0:
        value = action.metavar or ",".join(action.choices or ()) or action.dest
        value = f"{value}{'+' if action.nargs == '+' else ''}"
        name = f"{name} `{value}`".strip()
    text = " ".join(parser._get_formatter()._expand_help(action).split())
    return f"| {name} | {text[0].upper()}{text[1:]} |"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"written: {TARGET}")
