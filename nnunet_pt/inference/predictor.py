"""Prediction with a trained model: files in, files out, or arrays in, arrays out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nnunet_pt.core.console import Progress, get_logger
from nnunet_pt.core.errors import NnunetError, PredictionError
from nnunet_pt.core.resources import available_cpus
from nnunet_pt.dataset.images.registry import reader_writer_by_name
from nnunet_pt.inference.export import segmented, write_prediction
from nnunet_pt.inference.inputs import InputCase, checked_array, checked_previous, read_input, refuse_flat_image
from nnunet_pt.inference.model import TrainedModel, load_model
from nnunet_pt.inference.orientation import Reorientation, orientation_of
from nnunet_pt.inference.overlap import overlapped, tile_reporter
from nnunet_pt.inference.results import CaseResult, Image, Prediction, PredictionOptions, Prepared, Properties
from nnunet_pt.inference.sliding_window import Progress as TileProgress
from nnunet_pt.inference.sliding_window import SlidingWindow
from nnunet_pt.networks.device import all_cpus_for, choose_device
from nnunet_pt.networks.precision import choose_precision
from nnunet_pt.networks.prediction import prepare_for_prediction
from nnunet_pt.preprocessing.case import CaseSettings, preprocess_arrays

__all__ = ["CaseResult", "InputCase", "Prediction", "PredictionOptions", "Predictor", "Prepared"]

_DEFAULT = PredictionOptions()
_log = get_logger(__name__)


class Predictor:
    """Predicts images with a trained model.

    Args:
        model: The model. Its network moves to the device, and is not to be trained any more.
        options: How to predict.

    Raises:
        UsageError: If the device, or the precision on it, is not available.
    """

    def __init__(self, model: TrainedModel, options: PredictionOptions = _DEFAULT) -> None:
        self.model = model
        self.options = options
        self.device = choose_device(options.device)
        self.precision = choose_precision(self.device, options.precision)
        self._reader_writer = reader_writer_by_name(model.plans.image_reader_writer)
        self._settings = CaseSettings(
            reader_name=model.plans.image_reader_writer,
            transpose_forward=model.plans.transpose_forward,
            configuration=model.configuration,
            intensities=model.plans.foreground_intensity_properties_per_channel,
            labels=model.labels,
            channel_names=model.description.channel_names,
        )
        prepare_for_prediction(model.network.to(self.device))
        self.window = SlidingWindow(
            model.network,
            patch_size=model.configuration.patch_size,
            num_outputs=model.labels.num_segmentation_heads,
            device=self.device,
            mirror_axes=model.mirror_axes if options.mirroring else (),
            step_size=options.step_size,
            gaussian=options.gaussian,
            precision=self.precision,
            tiles_per_batch=options.tiles_per_batch,
            results_on_device=options.results_on_device,
        )
        self._told_of_turning = False

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        *,
        folds: Sequence[int | str] | None = None,
        checkpoint_name: str = "checkpoint_final.pth",
        options: PredictionOptions = _DEFAULT,
    ) -> Predictor:
        """A predictor for the model in a folder, see :func:`~nnunet_pt.inference.model.load_model`."""
        return cls(load_model(Path(folder), folds=folds, checkpoint_name=checkpoint_name), options)

    def preprocess(
        self,
        image_cxyz: Image,
        properties: Mapping[str, Any],
        previous_segmentation: NDArray[Any] | None = None,
        *,
        threads: int = 1,
    ) -> tuple[Image, Properties]:
        """Transpose, crop, normalise and resample an image, in its own orientation.

        Args:
            image_cxyz: Image as the reader gives it; may be overwritten.
            properties: Its properties, with ``spacing`` in mm.
            previous_segmentation: For the second stage of a cascade, (1, x, y, z) of an integer type.
            threads: Number of threads.

        Returns:
            What the network takes, (channels, x, y, z); properties with what the way back needs.

        Raises:
            PredictionError: If a previous segmentation is missing, or not wanted.
        """
        if self.model.is_cascaded != (previous_segmentation is not None):
            lacks = self.model.is_cascaded
            raise PredictionError(
                "The previous stage's segmentation is missing." if lacks else "There is a segmentation too many.",
                expected=f"the prediction of {self.model.configuration.previous_stage} for this image, since "
                f"{self.model.configuration.name} is the second stage of a cascade"
                if lacks
                else f"an image alone: {self.model.configuration.name} is no second stage of a cascade",
            )
        prepared, segmentation, noted = preprocess_arrays(
            image_cxyz, previous_segmentation, properties, self._settings, threads=threads
        )
        noted.pop("class_locations", None)  # of the previous stage's segmentation: nothing for the way back
        if previous_segmentation is not None:
            previous = self.model.labels.one_hot(segmentation[0])
            prepared = np.concatenate([prepared, previous.astype(np.float32)])
        return prepared, noted

    def predict_logits(self, preprocessed_cxyz: Image | Tensor, *, progress: TileProgress | None = None) -> Tensor:
        """The network's output for a preprocessed image, averaged over the folds of the model.

        Args:
            preprocessed_cxyz: What :meth:`preprocess` gave.
            progress: Called with the number of finished passes through the network and their total.

        Returns:
            (classes or regions, x, y, z) on the CPU, float32 or float16.
        """
        number = len(self.model.folds)

        def report(fold: int) -> TileProgress | None:
            return None if progress is None else lambda done, total: progress(fold * total + done, number * total)

        mean: Tensor | None = None
        with all_cpus_for(self.device):
            for fold in range(number):
                self.model.use_fold(fold)
                logits = self.window.predict_logits(preprocessed_cxyz, progress=report(fold))
                if number > 1:
                    logits /= number  # before adding: the sum might be too large for float16
                mean = logits if mean is None else mean.add_(logits)
                del logits  # or there would be three copies while the next fold is predicted
        if mean is None:
            raise ValueError("the model has no folds")
        return mean

    def prepare(
        self,
        image_cxyz: NDArray[Any],
        properties: Mapping[str, Any],
        previous_segmentation: NDArray[Any] | None = None,
        *,
        threads: int = 1,
    ) -> Prepared:
        """Check, turn and preprocess an image.

        Args:
            image_cxyz: See :meth:`predict_array`; it is not changed.
            properties: Likewise.
            previous_segmentation: Likewise.
            threads: Number of threads.

        Raises:
            PredictionError: If the image does not suit the model.
        """
        image, own = checked_array(image_cxyz, properties, self._num_channels)
        if previous_segmentation is not None:
            previous_segmentation = checked_previous(previous_segmentation, image, self.model.labels)
        return self._prepared(image, own, previous_segmentation, None, threads)

    def finish(
        self, logits: Tensor, prepared: Prepared, probabilities: bool = False, *, threads: int = 1
    ) -> Prediction:
        """The way back from logits to the geometry of the image.

        Args:
            logits: What :meth:`predict_logits` gave.
            prepared: What it was given.
            probabilities: Give probabilities, too.
            threads: Number of threads.
        """
        segmentation, shares = segmented(
            logits.numpy(),
            prepared.properties,
            plans=self.model.plans,
            configuration=self.model.configuration,
            labels=self.model.labels,
            probabilities=probabilities,
            threads=threads,
        )
        if prepared.turn is not None:
            segmentation = np.ascontiguousarray(prepared.turn.undo(segmentation))
            shares = None if shares is None else prepared.turn.undo(shares)
        properties = prepared.own_properties(self.model.plans)
        return Prediction(segmentation=segmentation, probabilities=shares, properties=properties)

    def predict_array(
        self,
        image_cxyz: NDArray[Any],
        properties: Mapping[str, Any],
        *,
        previous_segmentation: NDArray[Any] | None = None,
        probabilities: bool = False,
    ) -> Prediction:
        """Predict an image.

        Args:
            image_cxyz: Image with the axes that the reader of the model gives; 2D images are (channels, 1, y, x).
            properties: ``spacing``, in mm, for the axes x, y, z of the array; what else a reader noted is used, too.
            previous_segmentation: For the second stage of a cascade, (1, x, y, z).
            probabilities: Give probabilities, too.

        Raises:
            PredictionError: If the image does not suit the model, or memory does not suffice.
        """
        cpus = available_cpus()
        prepared = self.prepare(image_cxyz, properties, previous_segmentation, threads=cpus)
        return self.finish(self.predict_logits(prepared.image), prepared, probabilities, threads=cpus)

    def predict_arrays(
        self, images: Iterable[tuple[NDArray[Any], Mapping[str, Any]]], *, probabilities: bool = False
    ) -> Iterator[Prediction]:
        """Predict images one after another; the next one is preprocessed and the last one resampled meanwhile.

        Args:
            images: Each with its properties, see :meth:`predict_array`; taken one by one, a little ahead.
            probabilities: Give probabilities, too.

        Yields:
            The predictions in order.

        Raises:
            PredictionError: If an image cannot be predicted; those before have been given then.
        """
        threads = self._threads(1, 1)
        results = overlapped(
            images,
            load=lambda item: self.prepare(*item, threads=threads),
            predict=lambda _, prepared: (self.predict_logits(prepared.image), prepared),
            export=lambda _, predicted: self.finish(*predicted, probabilities, threads=threads),
        )
        with contextlib.closing(results):
            for _, outcome in results:
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome

    def predict_cases(
        self,
        cases: Iterable[InputCase],
        *,
        total: int | None = None,
        save_probabilities: bool = False,
        num_readers: int = 1,
        num_exporters: int = 1,
        progress: bool = True,
    ) -> Iterator[CaseResult]:
        """Predict cases from files; the next ones are read and the last ones written meanwhile.

        A case that fails is logged with its reason, and the others go on. Files appear complete or not at all.

        Args:
            cases: The cases, taken one by one, a little ahead.
            total: Their number, for the display.
            save_probabilities: Write (or give) probabilities, too.
            num_readers: How many cases are read ahead.
            num_exporters: How many cases are written at the same time.
            progress: Show the progress.

        Yields:
            What became of each case, in order.
        """
        if total is None:
            total = len(cases) if isinstance(cases, Sized) else 0
        seconds: dict[int, float] = {}
        threads = self._threads(num_readers, num_exporters)
        with Progress(total, "Predicting", disable=not progress) as bar:

            def predict(item: tuple[int, InputCase], prepared: Prepared) -> tuple[Tensor, Prepared]:
                begin = time.monotonic()
                try:
                    report = tile_reporter(bar, item[1].name)
                    return self.predict_logits(prepared.image, progress=report), prepared
                finally:
                    seconds[item[0]] = time.monotonic() - begin

            def export(item: tuple[int, InputCase], predicted: tuple[Tensor, Prepared]) -> Prediction | None:
                made = self.finish(*predicted, save_probabilities, threads=threads)
                if item[1].output is None:
                    return made
                self.write(made, item[1].output)
                return None

            results = overlapped(
                enumerate(cases),
                load=lambda item: self._prepared_case(item[1], threads=threads),
                predict=predict,
                export=export,
                num_readers=num_readers,
                num_exporters=num_exporters,
                on_wait=bar.refresh,
            )
            with contextlib.closing(results):
                for (index, case), outcome in results:
                    bar.note("")
                    bar.advance()
                    spent = seconds.pop(index, 0.0)
                    if isinstance(outcome, Exception):
                        yield CaseResult(case=case, error=_explained(outcome, case), seconds=spent)
                    else:
                        yield CaseResult(case=case, error=None, seconds=spent, prediction=outcome)

    def _threads(self, num_readers: int, num_exporters: int) -> int:
        """Threads for reading or exporting one case while the network computes."""
        if self.device.type == "cpu":  # the network needs them
            return 1
        return max(1, available_cpus() // (num_readers + num_exporters))

    def _prepared_case(self, case: InputCase, *, threads: int) -> Prepared:
        model = self.model
        image, properties, previous = read_input(case, self._reader_writer, model.labels, self._num_channels)
        return self._prepared(image, properties, previous, case.name, threads)

    @property
    def _num_channels(self) -> int:
        return len(self.model.description.channel_names)

    def _prepared(
        self, image: Image, properties: Properties, previous: NDArray[Any] | None, name: str | None, threads: int
    ) -> Prepared:
        refuse_flat_image(image.shape[1:], properties["spacing"], self.model.configuration.patch_size, name)
        turn = self._turn(properties, name)
        original = properties
        if turn is not None:
            image, properties = turn.apply(image), turn.properties(properties)
            previous = None if previous is None else turn.apply(previous)
        image, properties = self.preprocess(image, properties, previous, threads=threads)
        return Prepared(image, properties, original, turn)

    def _turn(self, properties: Properties, name: str | None) -> Reorientation | None:
        """How an image has to be turned for the model; None if not at all."""
        wanted, current = self.model.orientation, orientation_of(properties)
        if self.options.keep_orientation or wanted is None or current is None or wanted == current:
            return None
        _log.debug("%s is turned from %s to %s.", name or "The image", current, wanted)
        if not self._told_of_turning:
            self._told_of_turning = True
            _log.info(
                "Images are turned to the orientation of the training images (%s; %s is %s), and predictions back.",
                wanted, name or "this one", current,
            )  # fmt: skip
        return Reorientation.between(current, wanted)

    def write(self, made: Prediction, output: Path) -> None:
        """Write a prediction as :meth:`predict_cases` does.

        Args:
            made: The prediction; its properties must be those of a reader.
            output: Path of the segmentation without its ending.
        """
        write_prediction(
            made.segmentation,
            made.probabilities,
            made.properties,
            reader_writer=self._reader_writer,
            output=output,
            file_ending=self.model.description.file_ending,
        )


def _explained(error: Exception, case: InputCase) -> Exception:
    """Log why a case failed."""
    if isinstance(error, MemoryError):
        error = PredictionError(
            f"Memory does not suffice for case {case.name}.",
            found=str(error) or None,
            remedy="close other programs, or read and write fewer cases at the same time (-npp, -nps)",
        )
    expected = isinstance(error, NnunetError)
    _log.error("Case %s cannot be predicted.\n%s", case.name, error, exc_info=None if expected else error)
    return error
