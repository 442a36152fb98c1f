"""What every image reader/writer must do, whatever the format."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnunet_pt.core.errors import DatasetError, ImageError, StorageError, UnknownNameError
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.images.base import ImageReaderWriter
from nnunet_pt.dataset.images.hidden_damage import scan_file
from nnunet_pt.dataset.images.registry import choose_reader_writer, reader_writer_by_name, reader_writers

OBLIQUE = (0.36, 0.48, -0.8, -0.8, 0.6, 0.0, 0.48, 0.64, 0.6)
PERMUTED = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Format:
    """A reader/writer with a kind of file it reads."""

    reader: str
    ending: str
    geometry: str = "plain"
    flat: bool = False  # 2D
    position_is_read: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, 9, 7) if self.flat else (5, 9, 7)

    def __str__(self) -> str:
        return f"{self.reader}{self.ending}-{self.geometry}{'-2D' if self.flat else ''}"

    def make(
        self, folder: Path, channel: int, array: NDArray[Any], spacing: tuple[float, ...] = (3, 1.5, 0.75)
    ) -> Path:
        """Write an image (slices, rows, columns) with the library that users would take."""
        path = folder / f"case_{channel:04d}{self.ending}"
        if self.reader == "NaturalImage2DIO":
            import tifffile
            from PIL import Image

            if self.ending == ".tif":
                tifffile.imwrite(path, array[0], photometric="minisblack")
            else:
                Image.fromarray(array[0]).save(path)
        elif self.reader == "Tiff3DIO":
            import tifffile

            tifffile.imwrite(path, array, photometric="minisblack")
            (folder / "case.json").write_text(json.dumps({"spacing": spacing}))
        else:
            import SimpleITK as sitk

            image = sitk.GetImageFromArray(array[0] if self.flat else array)
            image.SetSpacing(spacing[::-1][: image.GetDimension()])
            image.SetOrigin((-4.5, 20.0, 7.0)[: image.GetDimension()])
            if not self.flat and self.geometry != "plain":
                image.SetDirection(OBLIQUE if self.geometry == "oblique" else PERMUTED)
            sitk.WriteImage(image, str(path), True)
        return path


FORMATS = [
    *(Format("SimpleITKIO", ending) for ending in (".nii.gz", ".nrrd", ".mha", ".gipl")),
    Format("SimpleITKIO", ".nii.gz", "oblique"),
    Format("SimpleITKIO", ".nii.gz", "permuted"),
    Format("SimpleITKIO", ".mha", flat=True),
    Format("SimpleITKIO", ".nii.gz", flat=True),
    *(
        Format(reader, ending, geometry)
        for reader in ("NibabelIO", "NibabelIOWithReorient")
        for ending in (".nii", ".nii.gz")
        for geometry in ("plain", "oblique", "permuted")
    ),
    Format("SimpleITKIOWithReorient", ".nii.gz", "oblique"),
    Format("SimpleITKIOWithReorient", ".nrrd", "permuted"),
    *(Format("NaturalImage2DIO", ending, flat=True) for ending in (".png", ".bmp", ".tif")),
    *(Format("Tiff3DIO", ending) for ending in (".tif", ".tiff")),
]
SPATIAL = [f for f in FORMATS if f.reader != "NaturalImage2DIO"]
KEYS = {
    "SimpleITKIO": {"sitk_stuff": ["spacing", "origin", "direction"]},
    "SimpleITKIOWithReorient": {"sitk_stuff": ["spacing", "origin", "direction", "original_orientation"]},
    "NibabelIO": {"nibabel_stuff": ["original_affine"]},
    "NibabelIOWithReorient": {"nibabel_stuff": ["original_affine", "reoriented_affine"]},
    "NaturalImage2DIO": {},
    "Tiff3DIO": {},
}


def pixels(shape: tuple[int, ...], seed: int = 0, largest: int = 255) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, largest, shape).astype(np.uint8)


@pytest.fixture(params=FORMATS, ids=str)
def format(request: pytest.FixtureRequest) -> Format:
    return request.param  # type: ignore[no-any-return]


def reader_of(format: Format) -> ImageReaderWriter:
    return reader_writer_by_name(format.reader)


def test_image_has_channels_first_and_all_its_values(format: Format, tmp_path: Path) -> None:
    first, second = pixels(format.shape, 1), pixels(format.shape, 2)
    paths = [format.make(tmp_path, 0, first), format.make(tmp_path, 1, second)]
    image, properties = reader_of(format).read_images(paths)
    assert image.dtype == np.float32 and image.flags.c_contiguous
    assert image.shape[0] == 2 and sorted(image.shape[1:]) == sorted(format.shape)
    for channel, expected in zip(image, (first, second), strict=True):
        if format.geometry == "plain" and "Reorient" not in format.reader:
            assert np.array_equal(channel, expected)
        assert np.array_equal(np.sort(channel.ravel()), np.sort(expected.ravel()))
    assert len(properties["spacing"]) == 3


def test_properties_have_nnunets_keys_and_only_plain_types(format: Format, tmp_path: Path) -> None:
    _, properties = reader_of(format).read_images([format.make(tmp_path, 0, pixels(format.shape))])
    assert set(properties) == {"spacing", *KEYS[format.reader]}
    for key, names in KEYS[format.reader].items():
        assert list(properties[key]) == names

    def check(value: Any) -> None:
        if isinstance(value, dict):
            check(list(value.values()))
        elif type(value) in (list, tuple):
            for item in value:
                check(item)
        else:
            assert type(value) in (int, float, str, np.ndarray), type(value)

    check(properties)
    assert b"nnunet_pt" not in pickle.dumps(properties)


def test_header_says_what_reading_gives(format: Format, tmp_path: Path) -> None:
    path = format.make(tmp_path, 0, pixels(format.shape))
    image, properties = reader_of(format).read_images([path])
    header = reader_of(format).read_header(path)
    assert header.shape == image.shape[1:]
    assert header.spacing == pytest.approx(tuple(properties["spacing"]))
    assert header.num_channels == image.shape[0]
    assert header.voxel_bytes == 1
    assert header.num_voxels == image.size


@pytest.mark.parametrize("largest", [3, 254, 255, 1000])
def test_segmentation_is_written_and_read_back(format: Format, tmp_path: Path, largest: int) -> None:
    reader = reader_of(format)
    image, properties = reader.read_images([format.make(tmp_path, 0, pixels(format.shape))])
    segmentation = np.random.default_rng(3).integers(0, largest, image.shape[1:]).astype(np.int16)
    segmentation.flat[0] = largest
    target = tmp_path / "out" / f"case{format.ending}"
    if format.ending == ".bmp" and largest >= 255:
        with pytest.raises(ImageError, match=r"use \.png"):
            reader.write_segmentation(segmentation, target, properties)
        return
    reader.write_segmentation(segmentation, target, properties)
    back, new_properties = reader.read_segmentation(target)
    assert np.array_equal(back[0], segmentation)
    assert reader.read_header(target).voxel_bytes == (1 if largest < 255 else 2)
    assert new_properties["spacing"] == pytest.approx(properties["spacing"])
    assert [p.name for p in target.parent.iterdir() if p.suffix != ".json"] == [target.name]


@pytest.mark.parametrize("format", SPATIAL, ids=str)
def test_written_segmentation_lies_where_the_image_lies(format: Format, tmp_path: Path) -> None:
    reader = reader_of(format)
    path = format.make(tmp_path, 0, pixels(format.shape))
    image, properties = reader.read_images([path])
    target = tmp_path / f"seg{format.ending}"
    reader.write_segmentation(image[0].astype(np.uint8), target, properties)
    before, after = reader.read_header(path), reader.read_header(target)
    assert after.geometry.keys() == before.geometry.keys()
    for what, values in before.geometry.items():
        assert after.geometry[what] == pytest.approx(values, abs=1e-5)
    again, _ = reader.read_segmentation(target)
    assert np.array_equal(again, image)


def test_channels_of_different_shape_are_refused(format: Format, tmp_path: Path) -> None:
    larger = (format.shape[0], format.shape[1] + 1, format.shape[2])
    paths = [format.make(tmp_path, 0, pixels(format.shape)), format.make(tmp_path, 1, pixels(larger))]
    with pytest.raises(ImageError, match=r"case_0001.*shape") as caught:
        reader_of(format).read_images(paths)
    assert "case_0000" in str(caught.value)


@pytest.mark.parametrize("format", [f for f in SPATIAL if f.reader != "Tiff3DIO" and f.ending != ".gipl"], ids=str)
def test_channels_of_different_spacing_are_refused(format: Format, tmp_path: Path) -> None:
    paths = [format.make(tmp_path, 0, pixels(format.shape))]
    paths.append(format.make(tmp_path, 1, pixels(format.shape), spacing=(3, 1.5, 0.8)))
    with pytest.raises(ImageError, match=r"case_0001.*spacing.*0\.8") as caught:
        reader_of(format).read_images(paths)
    assert "0.75" in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_file_is_an_error_with_its_name(
    format: Format, tmp_path: Path, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = format.make(tmp_path, 0, pixels((format.shape[0], 60, 50)))
    cut(path, share)
    reader = reader_of(format)
    for read in (lambda: reader.read_images([path]), lambda: reader.read_segmentation(path)):
        with pytest.raises(ImageError, match="case_0000") as caught:
            read()
        assert "\n  to do:" in str(caught.value) and ".cxx" not in str(caught.value)
    capfd.readouterr()  # MetaImage complains on its own, too


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_file_without_its_last_bytes_is_an_error_or_lost_no_voxel(format: Format, tmp_path: Path) -> None:
    path = format.make(tmp_path, 0, pixels((format.shape[0], 60, 50)))
    intact, _ = reader_of(format).read_images([path])
    cut(path, 0.9995)
    try:
        image, _ = reader_of(format).read_images([path])
    except ImageError as error:
        assert "case_0000" in str(error)
    else:
        assert np.array_equal(image, intact)


def test_truncated_multi_page_tiff_is_an_error(tmp_path: Path) -> None:
    import tifffile

    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for page in pixels((9, 60, 50)):
            writer.write(page, photometric="minisblack", metadata=None, compression="zlib")
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        end = file.pages[5].offset
    (tmp_path / "x.tif").write_bytes((tmp_path / "x.tif").read_bytes()[:end])
    with pytest.raises(ImageError, match=r"x\.tif is damaged(?s:.*)last pages"):
        reader_writer_by_name("Tiff3DIO").read_images([tmp_path / "x.tif"])


def test_missing_file_folder_and_rubbish_are_errors(format: Format, tmp_path: Path) -> None:
    reader = reader_of(format)
    rubbish, folder = tmp_path / f"rubbish{format.ending}", tmp_path / f"folder{format.ending}"
    rubbish.write_bytes(b"this is no image" * 100)
    folder.mkdir()
    calls: list[Callable[[Path], Any]] = [
        reader.read_header,
        reader.read_segmentation,
        lambda path: reader.read_images([path]),
    ]
    for call in calls:
        for path in (rubbish, folder, tmp_path / f"absent{format.ending}"):
            with pytest.raises(ImageError, match=path.name):
                call(path)


def test_folder_that_cannot_be_written(format: Format, tmp_path: Path) -> None:
    image, properties = reader_of(format).read_images([format.make(tmp_path, 0, pixels(format.shape))])
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        reader_of(format).write_segmentation(image[0] * 0, tmp_path / "file" / f"x{format.ending}", properties)


@pytest.mark.parametrize("format", [f for f in FORMATS if f.geometry == "plain"], ids=str)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_labels_survive_a_round_trip(format: Format, tmp_path: Path, data: st.DataObject) -> None:
    sides = st.integers(1, 6)
    shape = (1 if format.flat else data.draw(sides), data.draw(sides), data.draw(sides))
    largest = data.draw(st.sampled_from([1, 254, 255, 65535] if format.ending != ".bmp" else [1, 254]))
    values = st.integers(0, largest)
    size = int(np.prod(shape))
    segmentation = np.array(data.draw(st.lists(values, min_size=size, max_size=size)), np.int32).reshape(shape)
    reader = reader_of(format)
    _, properties = reader.read_images([format.make(tmp_path, 0, pixels((format.shape[0], 3, 3)))])
    target = tmp_path / f"labels{format.ending}"
    reader.write_segmentation(segmentation, target, properties)
    assert np.array_equal(reader.read_segmentation(target)[0][0], segmentation)


# What is particular to a format


def test_two_dimensional_itk_image_is_a_thick_slice(tmp_path: Path) -> None:
    format = Format("SimpleITKIO", ".mha", flat=True)
    image, properties = reader_of(format).read_images([format.make(tmp_path, 0, pixels((1, 9, 7)))])
    assert image.shape == (1, 1, 9, 7)
    assert properties["spacing"] == [999 * 1.5, 1.5, 0.75]
    assert properties["sitk_stuff"]["spacing"] == (0.75, 1.5)


def test_four_dimensional_file_is_channels(tmp_path: Path, write_image: Callable[..., None]) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    write_image(tmp_path / "x_0000.nii.gz", array, spacing=(1.0, 2.0, 3.0, 9.0))
    reader = reader_writer_by_name("SimpleITKIO")
    image, properties = reader.read_images([tmp_path / "x_0000.nii.gz"])
    assert np.array_equal(image, array)
    assert properties["spacing"] == [3.0, 2.0, 1.0]
    assert reader.read_header(tmp_path / "x_0000.nii.gz").num_channels == 3
    reader.write_segmentation(np.ones((4, 5, 6), np.uint8), tmp_path / "seg.nii.gz", properties)
    assert reader.read_header(tmp_path / "seg.nii.gz").spacing == (3.0, 2.0, 1.0)
    with pytest.raises(ImageError, match="several channels"):
        reader.read_segmentation(tmp_path / "x_0000.nii.gz")
    for name in ("NibabelIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient"):
        with pytest.raises(ImageError, match="not 3D"):
            reader_writer_by_name(name).read_images([tmp_path / "x_0000.nii.gz"])


def test_vector_image_is_refused(tmp_path: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.float32), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "x_0000.nrrd"))
    for call in (lambda r, p: r.read_images([p]), lambda r, p: r.read_header(p)):
        with pytest.raises(ImageError, match="3 values in each voxel"):
            call(reader_writer_by_name("SimpleITKIO"), tmp_path / "x_0000.nrrd")


@pytest.mark.parametrize("stored", [np.int8, np.uint16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("scaled", [False, True])
def test_nibabel_values_are_those_of_its_float64_array(tmp_path: Path, stored: Any, scaled: bool) -> None:
    import nibabel as nib

    random = np.random.default_rng(0)
    values = random.normal(scale=50, size=(4, 5, 6)) if scaled else random.integers(0, 100, (4, 5, 6)) * 1.0
    if stored == np.int64 and not scaled:
        values = random.integers(2**60, 2**62, (4, 5, 6))
    array = values.astype(np.float64 if scaled else stored)
    image = nib.Nifti1Image(array, np.diag([2, 1, 3, 1]), dtype=array.dtype)
    image.set_data_dtype(stored)
    nib.save(image, tmp_path / "x.nii.gz")
    expected = nib.load(tmp_path / "x.nii.gz").get_fdata().transpose(2, 1, 0).astype(np.float32)
    result, properties = reader_writer_by_name("NibabelIO").read_images([tmp_path / "x.nii.gz"])
    assert np.array_equal(result[0], expected)
    assert properties["spacing"] == [3.0, 1.0, 2.0]


def test_gzip_in_several_pieces_is_complete(tmp_path: Path) -> None:
    format = Format("SimpleITKIO", ".nii.gz")
    path = format.make(tmp_path, 0, pixels(format.shape))
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    image, _ = reader_of(format).read_images([path])
    assert np.array_equal(image[0], pixels(format.shape))


def test_wrong_checksum_is_found(tmp_path: Path) -> None:
    path = Format("SimpleITKIO", ".nii.gz").make(tmp_path, 0, pixels((20, 60, 50)))
    assert scan_file(path) == (0, 0)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"case_0000.*damaged"):
        scan_file(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("stored", ["<f4", ">f4", "<f8"])
@pytest.mark.parametrize("version", [1, 2])
def test_values_that_itk_reads_as_zero_are_counted(tmp_path: Path, ending: str, stored: str, version: int) -> None:
    import nibabel as nib

    array = np.random.default_rng(0).normal(size=(90, 80, 70))
    array[3, 4, 5:8] = np.nan
    array[89, 79, 68:] = np.inf, -np.inf
    kind = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    header = kind.header_class(endianness=stored[0])
    header.set_data_dtype(stored)
    nib.save(kind(array.astype(stored), np.eye(4), header), tmp_path / f"x{ending}")
    assert scan_file(tmp_path / f"x{ending}") == (3, 2)


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import SimpleITK as sitk

    format = Format("SimpleITKIO", ".nii.gz")
    image, properties = reader_of(format).read_images([format.make(tmp_path, 0, pixels((5, 60, 50)))])

    def lose_the_end(image: Any, path: str, compressed: bool, write: Any = sitk.WriteImage) -> None:
        write(image, path, compressed)
        Path(path).write_bytes(Path(path).read_bytes()[:-1000])

    monkeypatch.setattr(sitk, "WriteImage", lose_the_end)
    target = tmp_path / "out" / "case.nii.gz"
    with pytest.raises(StorageError, match=r"out/case\.nii\.gz cannot be written"):
        reader_of(format).write_segmentation(image[0], target, properties)
    assert list(target.parent.iterdir()) == []


def test_position_that_differs_between_channels_is_only_logged(
    tmp_path: Path, write_image: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / f"x_{channel:04d}.nii.gz" for channel in range(2)]
    for channel, path in enumerate(paths):
        write_image(path, np.zeros((4, 5, 6), np.float32), origin=(5.0 * channel, 0.0, 0.0))
    for reader, what in (("SimpleITKIO", "origin"), ("NibabelIO", "affine"), ("NibabelIOWithReorient", "affine")):
        caplog.clear()
        reader_writer_by_name(reader).read_images(paths)
        assert "x_0001" in caplog.text and what in caplog.text


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("RGBA", 4), ("L", 1), ("P", 3), ("1", 1), ("LA", None)])
def test_modes_of_png_files(tmp_path: Path, mode: str, channels: int | None) -> None:
    from PIL import Image

    path = tmp_path / "x_0000.png"
    Image.fromarray(pixels((9, 7, 3))).convert(mode).save(path)
    reader = reader_writer_by_name("NaturalImage2DIO")
    if channels is None:
        for read in (lambda: reader.read_images([path]), lambda: reader.read_header(path)):
            with pytest.raises(ImageError, match="neither a grey nor a colour image"):
                read()
        return
    image, properties = reader.read_images([path])
    assert image.shape == (channels, 1, 9, 7)
    assert reader.read_header(path).num_channels == channels
    assert properties == {"spacing": (999, 1, 1)}
    if channels > 1:
        with pytest.raises(ImageError, match="several channels"):
            reader.read_segmentation(path)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits_of_grey_images_are_kept(tmp_path: Path, ending: str) -> None:
    from skimage.io import imsave

    array = np.random.default_rng(0).integers(0, 65536, (9, 7)).astype(np.uint16)
    imsave(tmp_path / f"x_0000{ending}", array, check_contrast=False)
    reader = reader_writer_by_name("NaturalImage2DIO")
    image, _ = reader.read_images([tmp_path / f"x_0000{ending}"])
    assert np.array_equal(image[0, 0], array)
    assert reader.read_header(tmp_path / f"x_0000{ending}").voxel_bytes == 2


def test_tiff_spacing_beside_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    format = Format("Tiff3DIO", ".tif")
    path = format.make(tmp_path, 0, pixels(format.shape))
    reader = reader_of(format)
    assert reader.read_images([path])[1] == {"spacing": [3, 1.5, 0.75]}
    (tmp_path / "case.json").write_text('{"spacing": [1, 0, 1]}')
    with pytest.raises(ImageError, match=r"case\.json"):
        reader.read_images([path])
    (tmp_path / "case.json").unlink()
    assert reader.read_images([path])[1] == {"spacing": (1, 1, 1)}
    assert "1 mm in every direction" in caplog.text
    with pytest.raises(ImageError, match="not 3D"):
        reader.read_images([Format("NaturalImage2DIO", ".tif", flat=True).make(tmp_path, 1, pixels((1, 9, 7)))])


# Which reader


def description(**more: Any) -> DatasetDescription:
    data = {"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz", **more}
    return DatasetDescription.from_json(data, Path("dataset.json"))


@pytest.mark.parametrize(
    ("ending", "name"),
    [
        (".nii.gz", "SimpleITKIO"),
        (".NII.GZ", "SimpleITKIO"),
        (".nii", "NibabelIO"),
        (".nrrd", "SimpleITKIO"),
        (".png", "NaturalImage2DIO"),
        (".tif", "NaturalImage2DIO"),
        (".tiff", "Tiff3DIO"),
    ],
)
def test_ending_decides(ending: str, name: str) -> None:
    assert choose_reader_writer(ending).name == name
    assert choose_reader_writer(description(file_ending=ending)).name == name


def test_example_decides_between_readers_of_one_ending(tmp_path: Path) -> None:
    import nibabel as nib

    volume = Format("Tiff3DIO", ".tif").make(tmp_path, 0, pixels((5, 9, 7)))
    assert choose_reader_writer(".tif", volume).name == "Tiff3DIO"
    sheared = np.eye(4)
    sheared[0, 1] = 0.3  # SimpleITK has no such images
    nib.save(nib.Nifti1Image(pixels((4, 5, 6)), sheared), tmp_path / "x.nii.gz")
    assert choose_reader_writer(".nii.gz", tmp_path / "x.nii.gz").name == "NibabelIO"


def test_reader_by_name() -> None:
    chosen = choose_reader_writer(description(overwrite_image_reader_writer="SimpleITKIOWithReorient"))
    assert chosen.name == "SimpleITKIOWithReorient"
    with pytest.raises(UnknownNameError, match="did you mean NibabelIO"):
        choose_reader_writer(description(overwrite_image_reader_writer="NibabelI0"))


def test_no_reader(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"\.dcm"):
        choose_reader_writer(".dcm")
    (tmp_path / "x.nii.gz").write_bytes(b"")
    with pytest.raises(ImageError, match=r"(?s)x\.nii\.gz.*SimpleITKIO: .*NibabelIO: "):
        choose_reader_writer(".nii.gz", tmp_path / "x.nii.gz")


def test_reader_for_another_ending(tmp_path: Path) -> None:
    path = Format("Tiff3DIO", ".tif").make(tmp_path, 0, pixels((5, 9, 7)))
    assert choose_reader_writer(".gz", path, allow_nonmatching=True).name == "SimpleITKIO"


def test_names_in_the_registry_are_those_of_the_classes() -> None:
    for name in reader_writers:
        assert reader_writer_by_name(name).name == name == type(reader_writer_by_name(name)).__name__
