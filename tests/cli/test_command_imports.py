"""``--help`` answers at once: nothing heavy is imported before there is work to do."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("numpy", "torch", "SimpleITK", "scipy", "skimage", "nibabel", "blosc2", "tifffile", "tqdm", "threadpoolctl")

PROGRAM = f"""
import contextlib, importlib, io, pkgutil, sys
import nnunet_pt.cli
for module in pkgutil.iter_modules(nnunet_pt.cli.__path__):
    loaded = importlib.import_module(f"nnunet_pt.cli.{{module.name}}")
    if hasattr(loaded, "build_parser"):
        loaded.build_parser().format_help()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            loaded.main(["--help"])
    heavy = sorted(set({HEAVY!r}) & set(sys.modules))
    if heavy:
        sys.exit(f"nnunet_pt.cli.{{module.name}} imports {{heavy}}")
"""


def test_no_command_imports_anything_heavy_for_its_help() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
