"""Reader/writer names, and which one suits a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_pt.core.errors import DatasetError, ImageError, NnunetError, UnknownNameError
from nnunet_pt.core.registry import Registry
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.base import ImageReaderWriter

_ROOM = "nnunet_pt.dataset.images"

# In the order in which nnU-Net tries them.
reader_writers: Registry[type[ImageReaderWriter]] = Registry(
    "image reader/writer",
    {
        "NaturalImage2DIO": f"{_ROOM}.natural_images:NaturalImage2DIO",
        "SimpleITKIO": f"{_ROOM}.simpleitk_images:SimpleITKIO",
        "Tiff3DIO": f"{_ROOM}.tiff_images:Tiff3DIO",
        "NibabelIO": f"{_ROOM}.nibabel_images:NibabelIO",
        "NibabelIOWithReorient": f"{_ROOM}.nibabel_images:NibabelIOWithReorient",
        "SimpleITKIOWithReorient": f"{_ROOM}.simpleitk_images:SimpleITKIOWithReorient",
    },
)
ONLY_BY_NAME = frozenset({"SimpleITKIOWithReorient"})
MAX_EXAMPLES = 20


def reader_writer_by_name(name: str) -> ImageReaderWriter:
    """The reader/writer of that name.

    Raises:
        UnknownNameError: With similar names.
    """
    return reader_writers[name]()


def choose_reader_writer(
    dataset: DatasetDescription | str,
    example_file: Path | None = None,
    *,
    overwrite: str | None = None,
    allow_nonmatching: bool = False,
) -> ImageReaderWriter:
    """The reader/writer for a dataset.

    That is the one dataset.json asks for, or the first one that knows the file ending and can read the example.

    Args:
        dataset: dataset.json, or a file ending with its dot.
        example_file: An image of the dataset; without it the file ending decides.
        overwrite: A name that comes before everything else.
        allow_nonmatching: Also try those that do not know the file ending, after the others.

    Raises:
        UnknownNameError: If the name asked for does not exist.
        DatasetError: If none knows the file ending.
        ImageError: If none can read the example, with what each of them says.
    """
    ending = dataset if isinstance(dataset, str) else dataset.file_ending
    name = overwrite or (None if isinstance(dataset, str) else dataset.overwrite_image_reader_writer)
    if name is not None:
        if name not in reader_writers:
            error = UnknownNameError.of("image reader/writer", name, reader_writers)
            error.remedy = f"{error.remedy} Correct overwrite_image_reader_writer in dataset.json, or remove it."
            raise error
        return reader_writer_by_name(name)
    automatic = [reader_writer_by_name(name) for name in reader_writers if name not in ONLY_BY_NAME]
    candidates = [rw for rw in automatic if ending.lower() in rw.file_endings]
    if not candidates and not allow_nonmatching:
        known = sorted({e for rw in automatic for e in rw.file_endings})
        raise DatasetError(f"No image reader knows the file ending {ending!r}.", expected=", ".join(known))
    if allow_nonmatching:
        candidates += [rw for rw in automatic if rw not in candidates]
    if example_file is None:
        return candidates[0]
    failures: list[str] = []
    for candidate in candidates:
        try:
            candidate.read_header(example_file)
        except NnunetError as error:
            failures.append(f"{candidate.name}: {error.found or error.problem}")
        else:
            return candidate
    raise ImageError(
        f"The image {example_file} cannot be read.", found="; ".join(failures), remedy="replace it with an intact copy"
    )


def choose_by_examples(
    dataset: DatasetDescription | str, examples: Sequence[Path], *, allow_nonmatching: bool = False
) -> ImageReaderWriter:
    """The reader/writer for files of which some may be damaged.

    Args:
        dataset: dataset.json, or a file ending with its dot.
        examples: The first one of 20 that can be read decides; if there is none, the file ending does.
        allow_nonmatching: As for :func:`choose_reader_writer`.

    Raises:
        UnknownNameError: If dataset.json asks for one that does not exist.
        DatasetError: If none knows the file ending.
    """
    for example in examples[:MAX_EXAMPLES]:
        try:
            return choose_reader_writer(dataset, example, allow_nonmatching=allow_nonmatching)
        except ImageError:
            continue
    return choose_reader_writer(dataset)
