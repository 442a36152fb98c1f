"""Runs our commands for the documentation's tests without importing torch anew for each of the hundred.

One process imports everything and forks for each command. Three things are not as a user has them, so that a page
takes seconds: trainings are short, networks are narrow, and cases are worked on in the command's own process.

    python command_server.py SOCKET        waits for commands
    nnUNetv2_train 4 3d_fullres 0          a copy of ``CLIENT`` under that name has it done, with its input and output
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

SOCKET = "DOCUMENTATION_COMMANDS"
CLIENT = f"""#!{sys.executable} -ISs
import json, os, socket, sys
name = os.path.basename(sys.argv[0])
if name == "python" and not sys.argv[1].endswith(".py"):
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ[{SOCKET!r}])
socket.send_fds(server, [b"+"], [0, 1, 2])
server.sendall(json.dumps([name, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.recv(10) or 137))
"""
IMPORTED_LATE = (
    "torch._dynamo",
    "blosc2",
    "PIL.PngImagePlugin",
    "matplotlib.backends.backend_agg",
    "skimage.transform",
)
LONGEST = 5  # epochs that are not shortened
ITERATIONS = 2


def shorten(recipe: Any) -> Any:
    """The same training, over in a moment."""
    epochs = recipe.num_epochs if recipe.num_epochs <= LONGEST else 1
    return replace(
        recipe,
        num_epochs=epochs,
        iterations_per_epoch=min(recipe.iterations_per_epoch, ITERATIONS),
        validation_iterations_per_epoch=1,
        warmup_epochs=0,
        head_epochs=0,
    )


def prepare() -> None:
    """Import what commands import, and make work small before anybody has taken hold of it."""
    os.fsync = lambda _: None  # nobody pulls the plug on a test
    workers = importlib.import_module("nnunet_pt.core.workers")
    map_cases: Callable[..., Any] = workers.map_cases
    workers.map_cases = lambda *tasks, **options: map_cases(*tasks, **{**options, "num_workers": 0})
    run = importlib.import_module("nnunet_pt.training.run")
    with_flags: Callable[..., Any] = run.with_flags
    run.with_flags = lambda *recipe_and_request: shorten(with_flags(*recipe_and_request))
    importlib.import_module("nnunet_pt.planning.fingerprint_extractor").NUM_SAMPLES = 3000
    importlib.import_module("nnunet_pt.planning.experiment").BASE_FEATURES = 8
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    package = Path(importlib.import_module("nnunet_pt").__path__[0])
    for file in sorted(package.rglob("*.py")):
        if file.stem not in ("__init__", "__main__"):
            with contextlib.suppress(ImportError, SyntaxError):  # the command that needs it will say so
                importlib.import_module(".".join(("nnunet_pt", *file.relative_to(package).with_suffix("").parts)))


def execute(name: str, arguments: list[str], commands: dict[str, str]) -> int:
    """Run a command or a Python file; gives its exit status."""
    sys.argv = [name, *arguments]
    try:
        if name == "python":
            sys.argv = arguments
            sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
            runpy.run_path(arguments[0], run_name="__main__")
            return 0
        return int(importlib.import_module(commands[name]).main() or 0)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1


def answer(connection: socket.socket, commands: dict[str, str]) -> None:
    """In a process of its own: become what the client asked for."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    request = b"".join(iter(lambda: connection.recv(65536), b""))
    name, arguments, folder, environment = json.loads(request)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    status = execute(name, arguments, commands)
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(status).encode())
    os._exit(0)


def main() -> None:
    """Serve until whoever holds our input lets it go."""
    path, commands = sys.argv[1], json.loads(sys.argv[2])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".partial")
    listener.listen()
    prepare()
    Path(path + ".partial").rename(path)  # now the client may come
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            answer(connection, commands)
        connection.close()
        with contextlib.suppress(ChildProcessError):  # there are none
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
