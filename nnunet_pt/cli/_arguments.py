"""Arguments that several commands share, and the types of argument values."""

from __future__ import annotations

import math
import shutil
import textwrap
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NoReturn

from nnunet_pt.core.errors import UsageError

if TYPE_CHECKING:
    from nnunet_pt.core.settings import Workspace

CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")


class _Formatter(RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_width())


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in two lines instead of repeating the whole usage."""
        self.exit(2, f"Error: {message}\n  to do:    {self.prog} --help lists all arguments\n")


def make_parser(program: str, description: str, examples: str) -> ArgumentParser:
    """A parser with the help format that all commands share.

    Args:
        program: Name of the command.
        description: What it does.
        examples: Command lines, one in each line.
    """
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    return _Parser(
        prog=program,
        description=textwrap.fill(description, _width()),
        epilog=f"examples:\n{lines}",
        formatter_class=_Formatter,
    )


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 110) - 2


def add_datasets(parser: ArgumentParser) -> None:
    """``-d``: one or several datasets."""
    parser.add_argument(
        "-d",
        metavar="ID",
        type=dataset_reference,
        nargs="+",
        required=True,
        help="dataset ids or names: 4, or Dataset004_Hippocampus; several are worked on one after the other",
    )


def add_output(parser: ArgumentParser, *, progress: bool = True) -> None:
    """``--verbose`` and, for commands that take a while, ``--no_pbar``."""
    parser.add_argument("--verbose", action="store_true", help="say more; with an error, print the traceback too")
    if progress:
        parser.add_argument("--no_pbar", action="store_true", help="no progress bar")


def add_memory(parser: ArgumentParser) -> None:
    """``--max_ram_gb`` and ``--continue_on_error``."""
    parser.add_argument(
        "--max_ram_gb",
        metavar="GB",
        type=positive_float,
        help="memory that all workers together may use; fewer cases are worked on at a time if necessary "
        "(default: 80 %% of what is free)",
    )
    parser.add_argument(
        "--continue_on_error",
        action="store_true",
        help="when a case fails, finish the others and list the failed cases at the end (exit status 1)",
    )


def add_processes(parser: ArgumentParser, option: str = "-np") -> None:
    """``-np`` of commands with one number of workers."""
    parser.add_argument(
        option,
        metavar="N",
        type=positive_integer,
        help="worker processes (default: nnUNet_def_n_proc if set, else 8, but not more than there are CPUs)",
    )


def add_extractor(parser: ArgumentParser) -> None:
    """``-fpe`` and ``--verify_dataset_integrity``."""
    parser.add_argument(
        "-fpe",
        metavar="NAME",
        default="DatasetFingerprintExtractor",
        help="fingerprint extractor (default: %(default)s)",
    )
    parser.add_argument(
        "--verify_dataset_integrity",
        action="store_true",
        help="first check every image and label and report all findings; do this once for each dataset",
    )


def add_planner(parser: ArgumentParser) -> None:
    """``-pl`` and everything that changes what the planner does."""
    parser.add_argument(
        "-pl",
        metavar="NAME",
        default="ExperimentPlanner",
        help="planner (default: %(default)s); recommended: nnUNetPlannerResEncM, ...L or ...XL for GPUs with about "
        "8, 24 or 40 GB",
    )
    parser.add_argument(
        "-gpu_memory_target",
        metavar="GB",
        type=positive_float,
        help="GPU memory to plan for; changes patch and batch size (default: the planner's own)",
    )
    parser.add_argument(
        "-preprocessor_name",
        metavar="NAME",
        default="DefaultPreprocessor",
        help="preprocessor (default: %(default)s)",
    )
    parser.add_argument(
        "-overwrite_target_spacing",
        metavar="MM",
        type=positive_float,
        nargs="+",
        help="three spacings in mm, in the order of the array axes (usually z y x), for 3d_fullres instead of the "
        "planned ones; the other configurations follow",
    )
    parser.add_argument(
        "-overwrite_plans_name",
        metavar="NAME",
        help="write the plans under this name, so that the default plans stay (default: the planner's own)",
    )


def add_configurations(parser: ArgumentParser) -> None:
    """``-c`` and ``-np`` of preprocessing."""
    parser.add_argument(
        "-c",
        metavar="NAME",
        nargs="+",
        default=list(CONFIGURATIONS),
        help=f"configurations to preprocess (default: {' '.join(CONFIGURATIONS)}); those the plans do not have are "
        "skipped; 3d_cascade_fullres uses the data of 3d_fullres",
    )
    parser.add_argument(
        "-np",
        metavar="N",
        type=positive_integer,
        nargs="+",
        help="worker processes: one number, or one for each configuration (default: 8 for 2d, 4 for 3d_fullres, 8 for "
        "3d_lowres, 4 for others, but not more than there are CPUs)",
    )


def target_spacing(values: list[float] | None) -> tuple[float, float, float] | None:
    """The target spacing as a triple.

    Raises:
        UsageError: If there are not three numbers.
    """
    if values is None:
        return None
    if len(values) != 3:
        raise UsageError(
            "Argument -overwrite_target_spacing has the wrong number of values.",
            found=" ".join(map(str, values)),
            expected="three spacings in mm, for example 1.5 1.0 1.0",
        )
    return values[0], values[1], values[2]


def processes(values: list[int] | None, configurations: list[str]) -> int | tuple[int, ...] | None:
    """Process numbers as requests want them: none, one for all, or one for each configuration.

    Raises:
        UsageError: If the numbers do not match the configurations.
    """
    if values is None:
        return None
    if len(values) == 1:
        return values[0]
    if len(values) != len(configurations):
        raise UsageError(
            "Argument -np does not match -c.",
            found=f"{len(values)} numbers",
            expected=f"one number, or {len(configurations)}: one for each of {' '.join(configurations)}",
        )
    return tuple(values)


def check_datasets(datasets: Iterable[int | str], workspace: Workspace) -> None:
    """Complain about a dataset that does not exist before hours are spent on those before it.

    Raises:
        DatasetError: If there is no such dataset.
    """
    from nnunet_pt.dataset.cases import resolve_dataset_name

    for dataset in datasets:
        resolve_dataset_name(dataset, workspace)


def dataset_reference(text: str) -> int | str:
    """A dataset id or a name that begins with ``Dataset``."""
    if text.startswith("Dataset"):
        return text
    if text.isdecimal():
        return int(text)
    raise ArgumentTypeError(f"{text!r} is neither a number nor a name like Dataset004_Hippocampus")


def fold(text: str) -> int | Literal["all"]:
    """A fold: a number or ``all``."""
    if text == "all":
        return "all"
    if text.isdecimal():
        return int(text)
    raise ArgumentTypeError(f"{text!r} is neither a number nor all")


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def positive_integer(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positive_float(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
