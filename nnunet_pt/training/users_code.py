"""Errors in the code of users' own trainers, which are no errors of this package."""

from __future__ import annotations

import sys
from pathlib import Path
from traceback import extract_tb

from nnunet_pt.core.errors import TrainingError

_PACKAGE = Path(__file__).parents[1]


def users_error(error: Exception, trainer_class: type | None) -> TrainingError | None:
    """What to show for an exception that a user's own trainer raised.

    Args:
        error: Any exception of the training.
        trainer_class: The user's own trainer, if there is one.

    Returns:
        ``None`` if the exception was raised in this package, or in what it called.
    """
    module = None if trainer_class is None else sys.modules.get(trainer_class.__module__)
    file = getattr(module, "__file__", None)
    if trainer_class is None or file is None:
        return None
    frames = extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename == file or Path(f.filename).is_relative_to(_PACKAGE)]
    if not ours or ours[-1].filename != file:
        return None
    return TrainingError(
        f"The trainer {trainer_class.__name__} failed in its method {ours[-1].name}: {file}, line {ours[-1].lineno}.",
        found=f"{type(error).__name__}: {error}",
        remedy="correct it and continue with --c; --verbose shows where the exception came from",
    )
