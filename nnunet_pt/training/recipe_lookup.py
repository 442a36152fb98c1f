"""From the name after ``-tr`` to a recipe: built in, from an installed package, or from a user's own file.

A user's own is a :class:`TrainingRecipe`, or a class that derives from :class:`nnunet_pt.training.trainer.Trainer`. The
only files that are ever executed are the one that was named, and those in the folders of ``nnUNet_extTrainer`` that
define the name.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from nnunet_pt.core.errors import NnunetError, TrainingError, UnknownNameError
from nnunet_pt.core.settings import Settings
from nnunet_pt.training.recipe import TrainingRecipe
from nnunet_pt.training.recipes import RECIPES

if TYPE_CHECKING:
    from nnunet_pt.training.trainer import Trainer

ENTRY_POINT_GROUP = "nnunet_pt.recipes"
FINAL_METHODS = ("connect", "run", "save", "load")
OVERRIDABLE = "build_loss, build_optimizer, build_augmentation, train_step, validation_step"
PORTING = (
    "derive the class from nnunet_pt.training.trainer.Trainer. Numbers that were set in __init__ become\n"
    "            recipe = replace(DEFAULT, num_epochs=..., initial_lr=...)   # from nnunet_pt.training.recipe\n"
    f"            in the class; what remains goes into {OVERRIDABLE}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeSource:
    """What was found under a name.

    Attributes:
        recipe: The recipe; its name is that of the model folder.
        trainer_class: The user's own trainer; None for the standard one.
        origin: Where it was found, in words.
    """

    recipe: TrainingRecipe
    trainer_class: type[Trainer] | None = None
    origin: str = "built in"


def find_recipe(name: str, settings: Settings | None = None) -> RecipeSource:
    """Find a recipe or trainer.

    Searched are the built-in recipes, then the entry points of installed packages (group ``nnunet_pt.recipes``), then,
    for a name like ``path/to/file.py:Name``, that file, and finally the folders of ``nnUNet_extTrainer``.

    Args:
        name: What the user gave as ``-tr``.
        settings: Names the folders; by default from the environment.

    Raises:
        UnknownNameError: If there is nothing of that name, with the most similar names.
        TrainingError: If something was found that cannot be used: it cannot be imported, is no recipe and no trainer,
            overrides what must not be overridden, or derives from nnU-Net's own trainer class.
    """
    if name in RECIPES:
        return RecipeSource(recipe=RECIPES[name])
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in installed:
        return _source(name, *_load_entry_point(installed[name]))
    path, colon, attribute = name.rpartition(":")
    if colon and path.endswith(".py"):
        file = Path(path).expanduser()
        return _source(attribute, *_load_from_file(file, attribute, folder=_package_root(file)))
    folders = (settings or Settings.from_environment()).trainer_folders
    for folder in folders:
        for file in _modules(folder):
            if name in _names_defined_in(file):
                return _source(name, *_load_from_file(file, name, folder=folder))
    raise _unknown(name, installed, folders)


def _unknown(name: str, installed: dict[str, EntryPoint], folders: tuple[Path, ...]) -> UnknownNameError:
    own = {found for folder in folders for file in _modules(folder) for found in _names_defined_in(file)}
    error = UnknownNameError.of("trainer", name, {*RECIPES, *installed, *own})
    missing = [folder for folder in folders if not folder.is_dir()]
    damaged = [file for folder in folders for file in _modules(folder) if _tree(file) is None]
    if missing:
        error.remedy = (
            f"{error.remedy}; not searched, since missing (nnUNet_extTrainer): {', '.join(map(str, missing))}"
        )
    if damaged:
        error.remedy = f"{error.remedy}; not searched, since it is not valid Python: {', '.join(map(str, damaged))}"
    return error


def _source(name: str, found: object, origin: str) -> RecipeSource:
    """Check what was found under a name. The model folder is called by the name, whatever the recipe says."""
    if isinstance(found, TrainingRecipe):
        return RecipeSource(recipe=replace(found, name=name), origin=origin)
    if not isinstance(found, type):
        raise TrainingError(
            f"{name!r} ({origin}) is neither a recipe nor a trainer.",
            found=f"an object of type {type(found).__name__}",
            expected="a TrainingRecipe, or a class that derives from nnunet_pt.training.trainer.Trainer",
        )
    if any(base.__module__.partition(".")[0] == "nnunetv2" for base in found.__mro__):
        raise _derived_from_nnunet(f"The trainer {name} ({origin})")
    from nnunet_pt.training.trainer import Trainer

    if not issubclass(found, Trainer):
        raise TrainingError(
            f"The class {name} ({origin}) is not a trainer.",
            found=f"a class derived from {', '.join(base.__name__ for base in found.__bases__)}",
            expected="a class that derives from nnunet_pt.training.trainer.Trainer",
        )
    overridden = [m for m in FINAL_METHODS if hasattr(Trainer, m) and getattr(found, m) is not getattr(Trainer, m)]
    if overridden:
        raise TrainingError(
            f"The trainer {name} ({origin}) overrides methods that must stay as they are.",
            found=", ".join(overridden),
            expected=f"changes in {OVERRIDABLE} only",
            remedy="files that others can read and trainings that can be continued depend on these methods; "
            "do it in one of the methods named above, or with values of the recipe",
        )
    if not isinstance(found.recipe, TrainingRecipe):
        raise TrainingError(
            f"The recipe of the trainer {name} ({origin}) cannot be used.",
            found=f"an object of type {type(found.recipe).__name__}",
            expected="recipe = replace(DEFAULT, ...), with both names from nnunet_pt.training.recipe",
        )
    return RecipeSource(recipe=replace(found.recipe, name=name), trainer_class=found, origin=origin)


def _load_entry_point(point: EntryPoint) -> tuple[object, str]:
    origin = f"entry point {point.value}"
    try:
        return point.load(), origin
    except Exception as error:
        raise _import_failed(f"The {origin} of an installed package", error) from error


def _load_from_file(file: Path, attribute: str, *, folder: Path) -> tuple[object, str]:
    if not file.is_file():
        raise TrainingError(f"There is no file {file} to take the trainer {attribute!r} from.")
    module = _import_file(file, folder)
    if not hasattr(module, attribute):
        raise UnknownNameError.of(f"trainer in {file}", attribute, _names_defined_in(file))
    return getattr(module, attribute), str(file)


def _import_file(file: Path, folder: Path) -> ModuleType:
    """Import a file under its usual name as seen from a folder, so that worker processes can import it, too.

    If another module has that name already, the file gets a name of its own.
    """
    file, folder = file.resolve(), folder.resolve()
    name = ".".join(file.relative_to(folder).with_suffix("").parts)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        if _is_importable_as(name, file):
            return importlib.import_module(name)
        unique = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
        if unique in sys.modules:
            return sys.modules[unique]
        spec = importlib.util.spec_from_file_location(unique, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[unique] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[unique]
            raise
        return module
    except NnunetError:
        raise
    except Exception as error:
        raise _import_failed(str(file), error) from error


def _package_root(file: Path) -> Path:
    """The folder from which a file is imported: above all packages that it is part of."""
    folder = file.resolve().parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _is_importable_as(name: str, file: Path) -> bool:
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == file


def _import_failed(what: str, error: Exception) -> TrainingError:
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "nnunetv2":
        return _derived_from_nnunet(what)
    line = error.__traceback__
    while line is not None and line.tb_next is not None:
        line = line.tb_next
    where = "" if line is None else f" (line {line.tb_lineno} of {Path(line.tb_frame.f_code.co_filename).name})"
    return TrainingError(f"{what} cannot be imported.", found=f"{type(error).__name__}: {error}{where}")


def _derived_from_nnunet(what: str) -> TrainingError:
    return TrainingError(
        f"{what} builds on nnU-Net's own trainer class, which is not used here.",
        expected="a class that derives from nnunet_pt.training.trainer.Trainer, or a TrainingRecipe",
        remedy=PORTING,
    )


def _modules(folder: Path) -> Iterator[Path]:
    """Python files in nnU-Net's order: those of a folder by name, then those of its sub-packages."""
    if not folder.is_dir():
        return
    entries = sorted(folder.iterdir())
    yield from (entry for entry in entries if entry.suffix == ".py" and entry.stem.isidentifier() and entry.is_file())
    for entry in entries:
        if entry.is_dir() and (entry / "__init__.py").is_file():
            yield from _modules(entry)


def _names_defined_in(file: Path) -> set[str]:
    """Classes that a file defines, and names it gives to what a call returns, without executing it."""
    names: set[str] = set()
    tree = _tree(file)
    for node in [] if tree is None else tree.body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def _tree(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
