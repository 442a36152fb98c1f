"""What the package lists: everything that commands do, found by type checkers, imported when it is asked for."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_pt

PACKAGE = Path(nnunet_pt.__file__).parent
SCRIPTS = dict(
    re.findall(r'^(nnUNetv2_\w+) = "(nnunet_pt[\w.]+):main"$', (PACKAGE.parent / "pyproject.toml").read_text(), re.M)
)
CALLED_BY = {"plan_experiment": ["plan_and_show"]}  # which shows its result
NOT_EXPLAINED = {  # elsewhere: how-to/predict.md; and the types of results
    "CaseResult",
    "InputCase",
    "Prediction",
    "PredictionOptions",
    "TrainingFailure",
    "TrainingMetrics",
    "TrainingOptions",
    "TrainingOutcome",
    "TrainingSuccess",
    "nnUNetPredictor",
}
WITHOUT_WORK = {"nnUNetv2_completion"}  # it prints what a shell needs


def names_used(module: str) -> set[str]:
    """Every name that a module of the command line uses, and those of the shared modules it imports."""
    used: set[str] = set()
    tree = ast.parse((PACKAGE.parent / module.replace(".", "/")).with_suffix(".py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.ImportFrom) and node.module == "nnunet_pt.cli":
            for alias in node.names:
                if alias.name.startswith("_") and alias.name != "_run":
                    used |= names_used(f"nnunet_pt.cli.{alias.name}")
        elif isinstance(node, ast.ImportFrom) and node.module == "nnunet_pt.cli.train":
            used |= names_used(node.module)
    return used


def test_every_command_is_listed() -> None:
    assert set(nnunet_pt.COMMANDS) == set(SCRIPTS) - WITHOUT_WORK


@pytest.mark.parametrize("command", sorted(nnunet_pt.COMMANDS))
def test_the_command_calls_the_functions_that_are_listed(command: str) -> None:
    assert nnunet_pt.COMMANDS[command]
    for function in nnunet_pt.COMMANDS[command]:
        assert function in nnunet_pt.__all__
        assert {function, *CALLED_BY.get(function, ())} & names_used(SCRIPTS[command])


@pytest.mark.parametrize("name", nnunet_pt.__all__)
def test_every_name_is_there_and_documented(name: str) -> None:
    found = getattr(nnunet_pt, name)
    assert name in dir(nnunet_pt)
    if callable(found) and not name.startswith("nnUNet"):
        assert found.__name__ == name
        assert found.__doc__


def test_the_page_about_python_has_every_function_and_every_argument() -> None:
    page = (PACKAGE.parent / "documentation" / "reference" / "python.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(nnUNetv2_\w+)` \| (.*?) \|", page, re.MULTILINE)
    assert {command: tuple(re.findall(r"`(\w+)`", names)) for command, names in rows} == nnunet_pt.COMMANDS
    parameters = inspect.signature(nnunet_pt.nnunet_training).parameters
    words = set(re.findall(r"`(\w+)`", page))
    assert {*parameters, *nnunet_pt.TrainingOptions.__annotations__} - {"options"} - words == set()
    assert set(nnunet_pt.__all__) - words - set(re.findall(r"\w+", page)) <= NOT_EXPLAINED


def test_type_checkers_see_the_same_names_as_programs() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == {name: f"nnunet_pt.{module}" for name, module in nnunet_pt._MODULES.items()}
    assert set(nnunet_pt.__all__) == {"COMMANDS", *seen}
    assert len(nnunet_pt.__all__) == len(set(nnunet_pt.__all__))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        importlib.import_module("nnunet_pt").nothing  # noqa: B018


def test_nothing_heavy_is_imported_before_it_is_asked_for() -> None:
    program = (
        "import sys, nnunet_pt\n"
        "dir(nnunet_pt), nnunet_pt.COMMANDS, nnunet_pt.TrainRequest, nnunet_pt.Workspace, nnunet_pt.NnunetError\n"
        "sys.exit(str([m for m in ('torch', 'numpy', 'SimpleITK', 'matplotlib') if m in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "")
