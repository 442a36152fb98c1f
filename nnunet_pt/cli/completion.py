"""``nnUNetv2_completion``: let the shell complete our commands."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.cli._run import Outcome, run


def build_parser() -> ArgumentParser:
    """The parser of this command."""
    parser = arguments.make_parser(
        "nnUNetv2_completion",
        "Print a script with which the Tab key completes our commands: their options, the values to choose from, "
        "files, datasets, plans and configurations. The shell asks nothing of Python afterwards, so it answers at "
        'once. To have it in every session, add the line  eval "$(nnUNetv2_completion bash)"  to ~/.bashrc, or the '
        "same with zsh to ~/.zshrc. For sessions that start faster, store the script in a file and load that: "
        "source FILE. After an update, write the file anew.",
        """
        nnUNetv2_completion bash
        nnUNetv2_completion zsh
        """,
    )
    arguments.group(parser, arguments.REQUIRED).add_argument(
        "shell", choices=("bash", "zsh"), help="your shell; echo $SHELL says which it is"
    )
    arguments.add_output(parser, progress=False)
    return parser


def script(shell: str) -> str:
    """The script for a shell, "bash" or "zsh"."""
    from nnunet_pt.cli._completion import commands, planners, trainers
    from nnunet_pt.cli._completion_bash import bash_script
    from nnunet_pt.cli._completion_zsh import zsh_script

    make = bash_script if shell == "bash" else zsh_script
    return make(commands(), trainers(), planners())


def execute(args: Namespace) -> Outcome:
    """Print the script."""
    from nnunet_pt.core.console import show

    text = script(args.shell)
    show(text, {"shell": args.shell, "script": text})
    return Outcome(summaries=())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run(build_parser(), execute, argv)


if __name__ == "__main__":
    raise SystemExit(main())
