"""Arguments that several commands share, and the types of argument values."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from nnunet_pt.cli._parser import METHOD, OUTPUT, REQUIRED, RUNNING, SUBJECT, WRITTEN, add_commands, group, make_parser
from nnunet_pt.core.errors import UsageError

if TYPE_CHECKING:
    from nnunet_pt.core.settings import Workspace

__all__ = ["METHOD", "OUTPUT", "REQUIRED", "RUNNING", "SUBJECT", "WRITTEN", "add_commands", "group", "make_parser"]

CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
DATASET_HELP = "dataset: its number or its name, for example  4  or  Dataset004_Hippocampus"
DEVICE_HELP = (
    "where to compute (default: cuda if there is a GPU for it, else mps, else cpu); to choose one of several GPUs, set "
    "the environment variable CUDA_VISIBLE_DEVICES"
)


def add_datasets(parser: ArgumentParser) -> None:
    """``-d``: one or several datasets."""
    group(parser, REQUIRED).add_argument(
        "-d",
        metavar="ID",
        type=dataset_reference,
        nargs="+",
        required=True,
        help="datasets: their numbers or names, for example  4  or  Dataset004_Hippocampus; several are worked on one "
        "after the other",
    )


def add_dataset(parser: ArgumentParser, what: str = DATASET_HELP) -> None:
    """``-d``: one dataset."""
    group(parser, REQUIRED).add_argument("-d", metavar="ID", type=dataset_reference, required=True, help=what)


def add_output(parser: ArgumentParser, *, progress: bool = True) -> None:
    """``--verbose``, ``--no_pbar`` and ``--json_log``, which every command has.

    Args:
        parser: The parser.
        progress: Whether the command shows progress at all.
    """
    add_verbose(parser)
    add_no_pbar(parser, "--no_pbar", progress=progress)
    add_json_log(parser)


def add_verbose(parser: ArgumentParser) -> None:
    """``--verbose``."""
    group(parser, OUTPUT).add_argument(
        "--verbose", action="store_true", help="say more; after an error, print the traceback, too"
    )


def add_no_pbar(parser: ArgumentParser, *options: str, progress: bool = True) -> None:
    """``--no_pbar`` under one or several names."""
    there_is_none = "" if progress else " (this command has none)"
    group(parser, OUTPUT).add_argument(*options, action="store_true", help=f"show no progress bar{there_is_none}")


def add_json_log(parser: ArgumentParser) -> None:
    """``--json_log``."""
    group(parser, OUTPUT).add_argument(
        "--json_log",
        action="store_true",
        help="for programs: write every message, step of progress, error and the result as a line of JSON to standard "
        "output, and nothing else there",
    )


def add_memory(parser: ArgumentParser) -> None:
    """``--max_ram_gb`` and ``--continue_on_error``."""
    running = group(parser, RUNNING)
    running.add_argument(
        "--max_ram_gb",
        metavar="GB",
        type=positive_float,
        help="memory that all worker processes together may use; if it does not suffice for all of them, fewer cases "
        "are worked on at a time (default: 80 %% of what is free)",
    )
    running.add_argument(
        "--continue_on_error",
        action="store_true",
        help="if a case fails, finish the others and list the failed ones at the end (exit status 1); without it, the "
        "first failure ends the command",
    )


def add_processes(parser: ArgumentParser, option: str = "-np", what: str = "worker processes") -> None:
    """``-np`` of commands with one number of workers."""
    group(parser, RUNNING).add_argument(
        option,
        metavar="N",
        type=positive_integer,
        help=f"{what} (default: the environment variable nnUNet_def_n_proc if it is set, else 8, but not more than "
        "there are CPUs)",
    )


def add_parts(parser: ArgumentParser, *, merged: bool = True) -> None:
    """``-num_parts`` and ``-part_id``; ``merged`` if the last part puts together what all did."""
    running = group(parser, RUNNING)
    by_you = "by you as a job of its own, also on several machines at the same time,"
    last = "; the one that ends last puts all parts together"
    running.add_argument(
        "-num_parts",
        metavar="N",
        type=positive_integer,
        default=1,
        help=f"number of processes, each started {by_you if merged else 'by you with a GPU or machine of its own,'} "
        f"that share the cases{last if merged else ''} (default: %(default)s)",
    )
    running.add_argument(
        "-part_id",
        metavar="N",
        type=natural,
        default=0,
        help="which of them this is, counted from 0 (default: %(default)s)",
    )


def add_extractor(parser: ArgumentParser) -> None:
    """``-fpe`` and ``--verify_dataset_integrity``."""
    method = group(parser, METHOD)
    method.add_argument(
        "-fpe",
        metavar="NAME",
        default="DatasetFingerprintExtractor",
        help="fingerprint extractor (default: %(default)s, the only one)",
    )
    method.add_argument(
        "--verify_dataset_integrity",
        action="store_true",
        help="first check every image and label, and report everything that is wrong; do this once for each dataset",
    )


def add_planner(parser: ArgumentParser) -> None:
    """``-pl`` and everything that changes what the planner does."""
    method = group(parser, METHOD)
    method.add_argument(
        "-pl",
        metavar="NAME",
        default="ExperimentPlanner",
        help="planner (default: %(default)s); recommended: nnUNetPlannerResEncM, nnUNetPlannerResEncL or "
        "nnUNetPlannerResEncXL for GPUs with about 8, 24 or 40 GB",
    )
    method.add_argument(
        "-gpu_memory_target",
        metavar="GB",
        type=positive_float,
        help="memory of the GPU to plan for; it decides about patch and batch size (default: what the planner is "
        "made for)",
    )
    method.add_argument(
        "-preprocessor_name",
        metavar="NAME",
        default="DefaultPreprocessor",
        help="preprocessor (default: %(default)s, the only one)",
    )
    method.add_argument(
        "-overwrite_target_spacing",
        metavar="MM",
        type=positive_float,
        nargs="+",
        help="three spacings in mm to resample to for 3d_fullres, in the order of the array axes (usually z y x); the "
        "other configurations follow (default: found out from the dataset)",
    )
    method.add_argument(
        "-overwrite_plans_name",
        metavar="NAME",
        help="write the plans under this name; give one whenever you change how plans are made, so that the default "
        "plans stay as they are (default: the planner's own name for them)",
    )


def add_configurations(parser: ArgumentParser) -> None:
    """``-c`` and ``-np`` of preprocessing."""
    group(parser, SUBJECT).add_argument(
        "-c",
        metavar="NAME",
        nargs="+",
        default=list(CONFIGURATIONS),
        help=f"configurations to preprocess (default: {' '.join(CONFIGURATIONS)}); those the plans do not have are "
        "skipped; 3d_cascade_fullres uses the data of 3d_fullres",
    )
    group(parser, RUNNING).add_argument(
        "-np",
        metavar="N",
        type=positive_integer,
        nargs="+",
        help="worker processes that preprocess: one number, or one for each configuration (default: 8 for 2d, 4 for "
        "3d_fullres, 8 for 3d_lowres, 4 for others, but not more than there are CPUs)",
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


def check_datasets(datasets: Iterable[int | str], workspace: Workspace) -> tuple[str, ...]:
    """Complain about a dataset that does not exist before hours are spent on those before it.

    Returns:
        Their names.

    Raises:
        DatasetError: If there is no such dataset.
    """
    from nnunet_pt.dataset.cases import resolve_dataset_name

    return tuple(resolve_dataset_name(dataset, workspace) for dataset in datasets)


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
