"""``--dask`` and ``--dask_slurm``: where commands work on cases if not on this machine alone."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_pt.cli import _arguments as arguments
from nnunet_pt.core.errors import UsageError

if TYPE_CHECKING:
    from nnunet_pt.cluster.dask_checks import SharedFolders
    from nnunet_pt.core.executor import Executor
    from nnunet_pt.core.settings import Workspace

_FOR_ONE_MACHINE = {"np": "-np", "npfp": "-npfp"}


def add_dask(parser: ArgumentParser) -> None:
    """``--dask``, ``--dask_slurm`` and ``-cluster``."""
    running = arguments.group(parser, arguments.RUNNING)
    running.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="work on the cases on the workers of a Dask cluster; the address of its scheduler, for example "
        "tcp://host:8786; needs  pip install 'nnunet-pt[cluster]'  (default: work on this machine)",
    )
    running.add_argument(
        "--dask_slurm",
        metavar="N",
        type=arguments.positive_integer,
        help="the same with N jobs of SLURM, which are submitted now and cancelled in the end (default: none)",
    )
    running.add_argument(
        "-cluster",
        metavar="FILE",
        type=Path,
        help="what these jobs ask for: a file like cluster.toml of nnUNetv2_slurm (default: 8 CPUs, 48G and 12 hours)",
    )


def absolute(workspace: Workspace) -> Workspace:
    """The same folders, whatever folder a process works in."""
    own = workspace.settings
    raw, preprocessed, results = (p and p.absolute() for p in (own.raw, own.preprocessed, own.results))
    return replace(workspace, settings=replace(own, raw=raw, preprocessed=preprocessed, results=results))


def dataset_executor(args: Namespace, workspace: Workspace) -> contextlib.AbstractContextManager[Executor | None]:
    """The executor for work on the raw datasets ``-d``; see :func:`case_executor`."""

    def folders() -> SharedFolders:
        from nnunet_pt.cluster.dask_checks import SharedFolders

        names = arguments.check_datasets(args.d, workspace)
        return SharedFolders(read=tuple(workspace.raw / name for name in names), written=workspace.preprocessed)

    return case_executor(args, folders)


@contextlib.contextmanager
def case_executor(args: Namespace, folders: Callable[[], SharedFolders]) -> Iterator[Executor | None]:
    """The executor that the arguments ask for; None for processes of this machine.

    Args:
        args: The arguments.
        folders: Gives what the workers must see.

    Raises:
        UsageError: If the arguments contradict each other, or a package is missing.
        WorkerError: If there is no such cluster, or its workers cannot be used.
    """
    if args.dask is None and args.dask_slurm is None:
        if args.cluster is not None:
            raise UsageError(
                "-cluster is about the jobs of --dask_slurm.", remedy="add --dask_slurm N, or leave it out"
            )
        yield None
        return
    _check(args)
    from nnunet_pt.cluster.dask_checks import connected, require_dask
    from nnunet_pt.cluster.dask_executor import DaskExecutor

    require_dask("--dask" if args.dask is not None else "--dask_slurm", jobs=args.dask_slurm is not None)
    if args.dask_slurm is not None:
        from nnunet_pt.cluster.dask_slurm import slurm_executor
        from nnunet_pt.cluster.settings import load_cluster_settings, own_environment
        from nnunet_pt.cluster.slurm import largest_node

        settings = load_cluster_settings(
            args.cluster,
            flags={},
            training_flags={"gpus": "0"},  # there are none
            own_venv=own_environment(),
            largest_node=largest_node,
        )
        with slurm_executor(args.dask_slurm, settings, folders()) as jobs:
            yield jobs
        return
    name = f"The Dask cluster at {args.dask}"
    advice = f"start some on machines that see the same folders:  dask worker {args.dask}"
    seen = folders()
    with DaskExecutor(connected(args.dask), seen, name=name, advice=advice) as executor:
        yield executor


def _check(args: Namespace) -> None:
    option = "--dask" if args.dask is not None else "--dask_slurm"
    if args.dask is not None and args.dask_slurm is not None:
        raise UsageError(
            "--dask and --dask_slurm cannot be used together.",
            remedy="use --dask for a cluster that runs, or --dask_slurm to start one",
        )
    given = [words for name, words in _FOR_ONE_MACHINE.items() if getattr(args, name, None) is not None]
    if given:
        raise UsageError(
            f"{' and '.join(given)} cannot be used with {option}.",
            found="numbers of processes on this machine, which does not work on the cases",
            remedy="leave it out; each worker works on as many cases at a time as it has threads (dask worker "
            "--nthreads N, or cpus in the file given as -cluster)",
        )
    if getattr(args, "num_parts", 1) > 1:
        raise UsageError(
            f"-num_parts cannot be used with {option}.",
            found=f"-num_parts {args.num_parts}",
            remedy=f"use one of them: parts are for jobs that do not know of each other, with {option} the cases are "
            "shared out anyway",
        )
    if args.cluster is not None and args.dask_slurm is None:
        raise UsageError("-cluster is about the jobs of --dask_slurm.", remedy="leave it out, or use --dask_slurm N")
