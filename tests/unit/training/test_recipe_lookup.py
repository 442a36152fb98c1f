"""Names after ``-tr``: built in, installed, in a file, in the folders of nnUNet_extTrainer."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from nnunet_pt.core.errors import TrainingError, UnknownNameError
from nnunet_pt.core.settings import Settings
from nnunet_pt.training import recipe_lookup
from nnunet_pt.training.recipe_lookup import RecipeSource, find_recipe
from nnunet_pt.training.recipes import RECIPES

RECIPE = """
from dataclasses import replace
from nnunet_pt.training.recipe import DEFAULT
"""
TRAINER = """
from dataclasses import replace
from nnunet_pt.training.recipe import DEFAULT
from nnunet_pt.training.trainer import Trainer

class MyTrainer(Trainer):
    recipe = replace(DEFAULT, num_epochs=7)

    def build_loss(self, num_outputs):
        return super().build_loss(num_outputs)
"""


@pytest.fixture(autouse=True)
def _forget_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("nnunet_pt", "torch")):
            del sys.modules[name]
    importlib.invalidate_caches()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def find(name: str, *folders: Path) -> RecipeSource:
    return find_recipe(name, Settings(trainer_folders=folders))


def test_built_in() -> None:
    assert find("nnUNetTrainer_5epochs") == RecipeSource(recipe=RECIPES["nnUNetTrainer_5epochs"])


def test_built_in_names_win_and_execute_nothing(tmp_path: Path) -> None:
    write(tmp_path / "mine.py", "raise RuntimeError\nclass nnUNetTrainer: pass")
    assert find("nnUNetTrainer", tmp_path).origin == "built in"


def test_recipe_in_a_file_is_called_as_in_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", RECIPE + "Short = replace(DEFAULT, num_epochs=3)")
    found = find(f"{file}:Short")
    assert found.recipe.name == "Short"
    assert found.recipe.num_epochs == 3
    assert found.trainer_class is None
    assert found.origin == str(file)


def test_trainer_in_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", TRAINER)
    found = find(f"{file}:MyTrainer")
    assert found.recipe.name == "MyTrainer"
    assert found.recipe.num_epochs == 7
    assert found.trainer_class is not None
    assert found.trainer_class.__name__ == "MyTrainer"
    assert pickle.loads(pickle.dumps(found.trainer_class)) is found.trainer_class


def test_relative_path_and_twice_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine.py", TRAINER)
    monkeypatch.chdir(tmp_path)
    assert find("mine.py:MyTrainer").trainer_class is find("./mine.py:MyTrainer").trainer_class


@pytest.mark.parametrize("name", ["json", "torch", "my-trainer"])
def test_files_called_like_other_modules(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / f"{name}.py", RECIPE + "Short = replace(DEFAULT, num_epochs=3)")
    assert find(f"{file}:Short").recipe.num_epochs == 3
    assert find(f"{file}:Short").recipe.num_epochs == 3
    import json

    assert json.loads("[1]") == [1]


def test_files_of_a_package_may_import_each_other(tmp_path: Path) -> None:
    write(tmp_path / "ours" / "__init__.py", "")
    write(tmp_path / "ours" / "base.py", "EPOCHS = 4")
    file = write(
        tmp_path / "ours" / "mine.py", RECIPE + "from .base import EPOCHS\nOurs = replace(DEFAULT, num_epochs=EPOCHS)"
    )
    assert find(f"{file}:Ours").recipe.num_epochs == 4


def test_folders_of_own_trainers(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write(first / "a_broken.py", "def (")
    write(first / "b_other.py", "raise RuntimeError('not asked for')")
    write(first / "c_mine.py", RECIPE + "Wanted = replace(DEFAULT, num_epochs=1)")
    write(first / "package" / "__init__.py", "")
    write(first / "package" / "deep.py", RECIPE + "Wanted = replace(DEFAULT, num_epochs=2)\nDeep = replace(Wanted)")
    write(second / "late.py", RECIPE + "Wanted = replace(DEFAULT, num_epochs=3)\nLate: object = replace(DEFAULT)")
    assert find("Wanted", tmp_path / "missing", first, second).recipe.num_epochs == 1
    assert find("Deep", first, second).recipe.num_epochs == 2
    assert find("Late", first, second).recipe.name == "Late"


def test_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    write(tmp_path / "mine.py", RECIPE + "TrainerOfOurs = replace(DEFAULT)")
    write(tmp_path / "broken.py", "def (")
    with pytest.raises(UnknownNameError) as caught:
        find("TrainerOfOur", tmp_path, tmp_path / "missing")
    text = str(caught.value)
    assert "did you mean TrainerOfOurs" in text
    assert f"{tmp_path / 'missing'}" in text
    assert f"not valid Python: {tmp_path / 'broken.py'}" in text
    with pytest.raises(UnknownNameError, match="did you mean nnUNetTrainer_5epochs"):
        find("nnUNetTrainer_5epoch")


def test_file_or_name_missing(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"There is no file .*none\.py"):
        find(f"{tmp_path}/none.py:X")
    file = write(tmp_path / "mine.py", RECIPE + "Short = replace(DEFAULT)")
    with pytest.raises(UnknownNameError, match="did you mean Short"):
        find(f"{file}:Shor")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("X = 3", "neither a recipe nor a trainer"),
        ("class X: pass", "is not a trainer"),
        ("1 / 0\nX = 3", r"cannot be imported(.|\n)*ZeroDivisionError: division by zero \(line 1 of mine.py\)"),
        ("import surely_not_installed\nX = 3", "cannot be imported(.|\n)*surely_not_installed"),
        ("def (\nX = 3", "cannot be imported(.|\n)*SyntaxError"),
        (
            "from nnunet_pt.training.recipe import TrainingRecipe\nX = TrainingRecipe(num_epochs=0)",
            "num_epochs is 0, expected at least 1",
        ),
        (TRAINER + "\nX = MyTrainer\nX.recipe = {'num_epochs': 3}", "an object of type dict"),
        (TRAINER + "\nclass X(Trainer):\n    def run(self): pass", r"must stay as they are(.|\n)*run"),
        (TRAINER + "\nclass X(MyTrainer):\n    def save(self, name): pass", r"must stay as they are(.|\n)*save"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, text: str, complaint: str) -> None:
    file = write(tmp_path / "mine.py", text)
    with pytest.raises(TrainingError, match=complaint):
        find(f"{file}:X")


@pytest.mark.parametrize("installed", [True, False])
def test_trainers_of_nnunet_have_to_be_ported(tmp_path: Path, installed: bool) -> None:
    if installed:
        write(tmp_path / "nnunetv2" / "__init__.py", "class nnUNetTrainer: pass")
    write(tmp_path / "mine.py", "from nnunetv2 import nnUNetTrainer\nclass Mine(nnUNetTrainer): pass")
    with pytest.raises(TrainingError, match=r"derive the class from nnunet_pt\.training\.trainer\.Trainer"):
        find("Mine", tmp_path)


def test_entry_points_of_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "installed_package.py", RECIPE + "short = replace(DEFAULT, num_epochs=3)")
    monkeypatch.syspath_prepend(tmp_path)

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [
            EntryPoint(name="installed", value="installed_package:short", group=group),
            EntryPoint(name="broken", value="surely_not_installed:short", group=group),
            EntryPoint(name="nnUNetTrainer", value="surely_not_installed:short", group=group),
        ]

    monkeypatch.setattr(recipe_lookup, "entry_points", entry_points)
    found = find("installed")
    assert (found.recipe.name, found.recipe.num_epochs) == ("installed", 3)
    assert found.origin == "entry point installed_package:short"
    assert find("nnUNetTrainer").origin == "built in"
    with pytest.raises(TrainingError, match=r"entry point surely_not_installed:short(.|\n)*cannot be imported"):
        find("broken")
    with pytest.raises(UnknownNameError, match="did you mean installed"):
        find("instaled")


def test_looking_up_a_recipe_does_not_import_torch() -> None:
    code = (
        "import sys; from nnunet_pt.training.recipe_lookup import find_recipe; find_recipe('nnUNetTrainerAdan');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
