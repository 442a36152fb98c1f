"""Connections to Dask, and everything that is looked at before cases are sent to its workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_pt.cluster.dask_worker import WorkerFacts, facts
from nnunet_pt.core.errors import NnunetError, UsageError, WorkerError
from nnunet_pt.core.files import TEMPORARY_PREFIX, make_folder, write_text

if TYPE_CHECKING:
    from distributed import Client

INSTALL = "pip install 'nnunet-pt[cluster]'"
CONNECT_S = 5.0
VISIBLE_S = 5.0  # a shared file system may show a new file a little later to others
_PACKAGE = "nnunet-pt"
_IMPORT = "__import__('nnunet_pt.cluster.dask_worker') and None"
_ADDRESS = re.compile(r"(?:(?:tcp|tls)://)?(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFolders:
    """What the workers must see under the same path as this machine.

    Attributes:
        read: Files and folders that are read.
        written: A folder in which they write.
    """

    read: tuple[Path, ...] = ()
    written: Path

    @contextlib.contextmanager
    def marked(self) -> Iterator[tuple[str, str]]:
        """A file by which workers know the folder in which they write; gives its path and content."""
        token = secrets.token_hex(8)
        path = make_folder(self.written) / f"{TEMPORARY_PREFIX}dask-{token}"
        write_text(path, token)
        try:
            yield str(path), token
        finally:
            path.unlink(missing_ok=True)


def require_dask(purpose: str, *, jobs: bool = False) -> None:
    """Complain if Dask is not installed; ``jobs`` if it is to start jobs, too.

    Raises:
        UsageError: With the command that installs it.
    """
    needed = ("distributed", "dask_jobqueue") if jobs else ("distributed",)
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{purpose} needs packages that are not installed.", found=f"no {' and no '.join(missing)}", remedy=INSTALL
        )


def connected(address: str) -> Client:
    """Connect to a scheduler.

    Raises:
        UsageError: If that is no address.
        WorkerError: If there is no scheduler of Dask, or one with other versions.
    """
    if not _ADDRESS.fullmatch(address):
        raise UsageError(
            "That is no address of a Dask scheduler.",
            found=address,
            expected="tcp://HOST:PORT, as the scheduler prints it when it starts",
        )
    address = address if "://" in address else f"tcp://{address}"
    quiet()
    from distributed.versions import get_versions

    try:  # before a real connection, which fails in many ways if the versions differ
        with ThreadPoolExecutor(1) as thread:  # in a notebook this one has an event loop already
            found = thread.submit(asyncio.run, _versions_of(address)).result()
    except Exception as error:  # whatever listens there may answer anything
        raise _unreachable(address, error) from error
    wrong = _difference(get_versions(), found, ("python", "dask", "distributed"))
    if wrong is not None:
        raise _other_version(f"The Dask scheduler {address}", *wrong)
    return client_of(address)


async def _versions_of(address: str) -> Mapping[str, Any]:
    """The versions of a scheduler's software."""
    from distributed import Security
    from distributed.core import rpc

    arguments = Security().get_connection_args("client")
    async with rpc(address, timeout=CONNECT_S, connection_args=arguments) as scheduler:
        answer = await asyncio.wait_for(scheduler.versions(packages=[]), 2 * CONNECT_S)
    return {"packages": answer["packages"]}


def client_of(scheduler: Any) -> Client:
    """Connect to a scheduler by its address or cluster.

    Raises:
        WorkerError: If that is not possible.
    """
    from distributed import Client

    quiet()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other versions, which are looked at by others
            return Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreachable(getattr(scheduler, "scheduler_address", scheduler), error) from error


def _unreachable(address: str, error: BaseException) -> WorkerError:
    return WorkerError(
        f"The Dask scheduler {address} cannot be reached.",
        found=_first_line(error),
        expected="a scheduler of Dask that answers",
        remedy="check host and port; start one with  dask scheduler  and use the address that it prints; a firewall "
        "between the machines may be in the way, too",
    )


def quiet() -> None:
    """Keep Dask's own messages from the terminal: what matters is said by this package."""
    for name in ("distributed", "distributed.client", "tornado", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def check_versions(client: Client) -> dict[str, NnunetError]:
    """Compare the software of the workers with that of this process.

    Returns:
        What is wrong, by the address of the worker.
    """
    found: Mapping[str, Any] = client.get_versions(packages=[_PACKAGE])
    own = found["client"]
    problems: dict[str, NnunetError] = {}
    for address, versions in found["workers"].items():
        wrong = _difference(own, versions, ("python", "dask", "distributed", _PACKAGE))
        if wrong is not None:
            problems[address] = _other_version(f"The Dask worker {address}", *wrong)
    return problems


def _difference(own: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str]) -> tuple[str, str, str] | None:
    """The first package with another version: name, version found, version expected."""
    for name in names:
        mine, theirs = (side["packages"].get(name) for side in (own, other))
        if name == "python" and mine and theirs:  # pickles and messages are the same within 3.x
            mine, theirs = (".".join(version.split(".")[:2]) for version in (mine, theirs))
        if mine != theirs and not (name == _PACKAGE and mine is None):  # not installed here, but found by its path
            return name, theirs or "not installed", mine or "not installed"
    return None


def _other_version(who: str, name: str, found: str, expected: str) -> WorkerError:
    title = "Python" if name == "python" else name
    return WorkerError(
        f"{who} has another version of {title} than this command.",
        found=f"{title} {found}",
        expected=f"{title} {expected}",
        remedy="start scheduler and workers in the same environment as this command",
    )


def look_at(
    client: Client, addresses: Iterable[str], folders: SharedFolders, marker: tuple[str, str]
) -> tuple[dict[str, WorkerFacts], dict[str, NnunetError]]:
    """Ask workers about themselves.

    Returns:
        What they said, and what is wrong with others; workers that end meanwhile are in neither.
    """
    usable: dict[str, WorkerFacts] = {}
    wrong = {address: error for address, error in check_versions(client).items() if address in addresses}
    asked = [address for address in addresses if address not in wrong]
    # As text, since a function of this package cannot even be received where the package is missing
    for address, error in (client.run(eval, _IMPORT, workers=asked, on_error="return") if asked else {}).items():
        if isinstance(error, ImportError):
            wrong[address] = _not_importable(address, error)
            asked.remove(address)
    deadline = time.monotonic() + VISIBLE_S
    while asked:
        needed = [str(path) for path in (*folders.read, folders.written)]
        said = client.run(facts, needed, marker, workers=asked, on_error="return")
        last = time.monotonic() > deadline
        asked = []
        for address, answer in said.items():
            if not isinstance(answer, WorkerFacts):
                if not isinstance(answer, OSError):  # it has ended
                    wrong[address] = WorkerError(
                        f"The Dask worker {address} cannot be used.", found=_first_line(answer)
                    )
            elif not answer.missing and answer.marked:
                usable[address] = answer
            elif last:
                wrong[address] = _not_visible(address, answer, folders)
            else:
                asked.append(address)
        if asked:
            time.sleep(0.5)
    return usable, wrong


def _not_importable(address: str, error: ImportError) -> WorkerError:
    return WorkerError(
        f"The Dask worker {address} cannot import nnunet_pt, or has another version of it.",
        found=_first_line(error),
        expected="the same nnunet_pt as in this command",
        remedy="start the workers in the same environment as this command",
    )


def _not_visible(address: str, answer: WorkerFacts, folders: SharedFolders) -> WorkerError:
    who = f"The Dask worker {address} on {answer.host}"
    if answer.missing:
        return WorkerError(
            f"{who} does not see the same files as this machine.",
            found=f"no {', '.join(answer.missing)} there",
            expected="the same files under the same path on all machines",
            remedy="use folders that all machines share, and set nnUNet_raw and nnUNet_preprocessed to them",
        )
    return WorkerError(
        f"{who} has a folder of its own called {folders.written}.",
        found="a file that was just written here is not there",
        expected="one folder that all machines share",
        remedy="use a folder on a file system that all machines share; /tmp and local disks are not shared",
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
