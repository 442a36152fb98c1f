"""nnU-Net's Python interface for prediction, so that scripts written for it need one changed import.

New code should use :class:`nnunet_pt.inference.predictor.Predictor`, on which this is a thin layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import PredictionError
from nnunet_pt.core.files import make_folder, write_json
from nnunet_pt.core.wording import counted
from nnunet_pt.dataset.cases import cases_in_folder
from nnunet_pt.dataset.description import DatasetDescription
from nnunet_pt.dataset.labels import Labels
from nnunet_pt.inference.cases import Outputs
from nnunet_pt.inference.model import TrainedModel, available_folds, load_model
from nnunet_pt.inference.overlap import overlapped
from nnunet_pt.inference.predictor import InputCase, Prediction, PredictionOptions, Predictor, Prepared
from nnunet_pt.networks.precision import PrecisionName
from nnunet_pt.plans.configuration import Configuration
from nnunet_pt.plans.plans import Plans
from nnunet_pt.plans.reading import Findings

Array = NDArray[Any]
# A segmentation, or with probabilities both; None if it was written to a file
Result = Array | tuple[Array, NDArray[np.float32]] | None
Item = dict[str, Any]

_NUM_THREADS = 3
_ARGUMENTS_FILE = "predict_from_raw_data_args.json"
_log = get_logger(__name__)


class nnUNetPredictor:
    """Predicts with a trained model; arguments, results and files are nnU-Net's.

    What differs: reading and writing happen in threads instead of processes, and a case that fails does not keep the
    others from being predicted; the error is raised after the last one.

    Args:
        tile_step_size: Largest distance between neighbouring tiles as a share of the tile's extent.
        use_gaussian: Weight the middle of a tile more than its border.
        use_mirroring: Average the predictions of mirrored images.
        perform_everything_on_device: Sum up the outputs on the GPU.
        device: Where the network computes.
        verbose: Name each case.
        verbose_preprocessing: Not used.
        allow_tqdm: Show the progress.
        precision: Numerical precision; "fp32" for what nnU-Net does on the CPU. Not an argument of nnU-Net.
    """

    def __init__(
        self,
        tile_step_size: float = 0.5,
        use_gaussian: bool = True,
        use_mirroring: bool = True,
        perform_everything_on_device: bool = True,
        device: torch.device | str = torch.device("cuda"),  # noqa: B008  it cannot be changed
        verbose: bool = False,
        verbose_preprocessing: bool = False,
        allow_tqdm: bool = True,
        *,
        precision: PrecisionName = "auto",
    ) -> None:
        self.device = torch.device(device)
        self.verbose = verbose
        self.verbose_preprocessing = verbose_preprocessing
        self.allow_tqdm = allow_tqdm
        self.perform_everything_on_device = perform_everything_on_device and self.device.type == "cuda"
        self.options = PredictionOptions(
            step_size=tile_step_size,
            gaussian=use_gaussian,
            mirroring=use_mirroring,
            device=str(self.device),
            precision=precision,
            results_on_device=self.perform_everything_on_device,
        )
        self._predictor: Predictor | None = None

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str | Path,
        use_folds: Sequence[int | str] | int | str | None = None,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load a model from its folder; without folds all numbered ones that are there.

        Raises:
            NnunetError: With what is missing or damaged.
        """
        folds = (use_folds,) if isinstance(use_folds, int | str) else use_folds
        model = load_model(Path(model_training_output_dir), folds=folds, checkpoint_name=checkpoint_name)
        self._predictor = Predictor(model, self.options)

    def manual_initialization(
        self,
        network: nn.Module,
        plans_manager: Any,
        configuration_manager: Any,
        parameters: Sequence[Mapping[str, Tensor]] | None,
        dataset_json: Mapping[str, Any],
        trainer_name: str,
        inference_allowed_mirroring_axes: Sequence[int] | None,
    ) -> None:
        """Take a network instead of loading one.

        Args:
            network: The network.
            plans_manager: Plans, the content of a plans file, or nnU-Net's object that holds it.
            configuration_manager: A configuration, its name, or nnU-Net's object that holds its entries.
            parameters: Weights of each fold; None for those that the network has.
            dataset_json: Content of dataset.json.
            trainer_name: For the record.
            inference_allowed_mirroring_axes: Axes along which mirrored images are predicted, too.
        """
        plans = _plans(plans_manager)
        configuration = _configuration(configuration_manager, plans)
        description = DatasetDescription.from_json(dict(dataset_json), Path("dataset.json"))
        labels = Labels.from_description(description)
        weights = tuple(parameters) if parameters else ({k: v.clone() for k, v in network.state_dict().items()},)
        network.load_state_dict(weights[0])
        if getattr(network, "deep_supervision", False):
            setattr(network, "deep_supervision", False)  # noqa: B010  mypy takes attributes of modules for tensors
        cascaded = configuration.previous_stage is not None
        model = TrainedModel(
            folder=Path(),
            plans=plans,
            configuration=configuration,
            description=description,
            dataset_json=dataset_json,
            labels=labels,
            trainer_name=trainer_name,
            mirror_axes=tuple(inference_allowed_mirroring_axes or ()),
            folds=tuple(map(str, range(len(weights)))),
            checkpoints=(),
            network=network,
            fold_weights=weights,
            orientation=None,
            input_channels=description.num_channels + (len(labels.foreground_labels) if cascaded else 0),
            is_cascaded=cascaded,
        )
        self._predictor = Predictor(model, self.options)

    @staticmethod
    def auto_detect_available_folds(model_training_output_dir: str | Path, checkpoint_name: str) -> list[int]:
        """Numbers of the folds that have the checkpoint."""
        return [int(f) for f in available_folds(Path(model_training_output_dir), checkpoint_name) if f != "all"]

    @property
    def predictor(self) -> Predictor:
        """What does the work.

        Raises:
            PredictionError: If there is no model yet.
        """
        if self._predictor is None:
            raise PredictionError(
                "The predictor has no model yet.", remedy="call initialize_from_trained_model_folder first"
            )
        return self._predictor

    @property
    def network(self) -> nn.Module:
        """The network, with the weights of the fold that was used last."""
        return self.predictor.model.network

    @property
    def plans_manager(self) -> Plans:
        """The plans."""
        return self.predictor.model.plans

    @property
    def configuration_manager(self) -> Configuration:
        """The configuration."""
        return self.predictor.model.configuration

    @property
    def label_manager(self) -> Labels:
        """The labels."""
        return self.predictor.model.labels

    @property
    def list_of_parameters(self) -> list[Mapping[str, Tensor]]:
        """The weights of each fold."""
        return list(self.predictor.model.fold_weights)

    @property
    def dataset_json(self) -> Mapping[str, Any]:
        """Content of dataset.json."""
        return self.predictor.model.dataset_json

    @property
    def trainer_name(self) -> str:
        """The trainer that made the model."""
        return self.predictor.model.trainer_name

    @property
    def allowed_mirroring_axes(self) -> tuple[int, ...]:
        """Axes along which the model may be mirrored."""
        return self.predictor.model.mirror_axes

    def predict_from_files(
        self,
        list_of_lists_or_source_folder: str | Path | Sequence[Sequence[str | Path]],
        output_folder_or_list_of_truncated_output_files: str | Path | Sequence[str | Path] | None,
        save_probabilities: bool = False,
        overwrite: bool = True,
        num_processes_preprocessing: int = _NUM_THREADS,
        num_processes_segmentation_export: int = _NUM_THREADS,
        folder_with_segs_from_prev_stage: str | Path | None = None,
        num_parts: int = 1,
        part_id: int = 0,
    ) -> list[Result] | None:
        """Predict files.

        Args:
            list_of_lists_or_source_folder: Folder of images, or for each case the files of its channels.
            output_folder_or_list_of_truncated_output_files: Folder for the segmentations, or for each case the path
                without ending; None to get arrays.
            save_probabilities: Write or give probabilities, too.
            overwrite: Predict cases again whose segmentation exists.
            num_processes_preprocessing: Cases that are read ahead.
            num_processes_segmentation_export: Cases that are written at the same time.
            folder_with_segs_from_prev_stage: In a cascade the folder with the first stage's predictions.
            num_parts: Every so many cases are predicted.
            part_id: The first of them.

        Returns:
            For each case its segmentation (or with it the probabilities), or None if it was written; None instead of
            the list if there is nothing to do.

        Raises:
            PredictionError: If cases failed; names each with the reason.
        """
        target = output_folder_or_list_of_truncated_output_files
        arguments: dict[str, Any] = {
            "list_of_lists_or_source_folder": list_of_lists_or_source_folder,
            "output_folder_or_list_of_truncated_output_files": target,
            "save_probabilities": save_probabilities,
            "overwrite": overwrite,
            "folder_with_segs_from_prev_stage": folder_with_segs_from_prev_stage,
        }
        if num_processes_preprocessing or num_processes_segmentation_export:
            arguments |= {
                "num_processes_preprocessing": num_processes_preprocessing,
                "num_processes_segmentation_export": num_processes_segmentation_export,
                "num_parts": num_parts,
                "part_id": part_id,
            }
        cases = self._cases(list_of_lists_or_source_folder, target, folder_with_segs_from_prev_stage)
        cases = cases[part_id::num_parts]
        self._write_beside(target, arguments)
        if not overwrite:
            cases = [c for c in cases if c.output is None or not self._exists(c.output, save_probabilities)]
        if not cases:
            return None
        return self._run(cases, save_probabilities, num_processes_preprocessing, num_processes_segmentation_export)

    def predict_from_files_sequential(
        self,
        list_of_lists_or_source_folder: str | Path | Sequence[Sequence[str | Path]],
        output_folder_or_list_of_truncated_output_files: str | Path | Sequence[str | Path] | None,
        save_probabilities: bool = False,
        overwrite: bool = True,
        folder_with_segs_from_prev_stage: str | Path | None = None,
    ) -> list[Result]:
        """Like :meth:`predict_from_files`, one step after another; gives arrays only."""
        results = self.predict_from_files(
            list_of_lists_or_source_folder,
            output_folder_or_list_of_truncated_output_files,
            save_probabilities,
            overwrite,
            0,
            0,
            folder_with_segs_from_prev_stage,
        )
        return [r for r in results or [] if r is not None]

    def predict_single_npy_array(
        self,
        input_image: Array,
        image_properties: Mapping[str, Any],
        segmentation_previous_stage: Array | None = None,
        output_file_truncated: str | Path | None = None,
        save_or_return_probabilities: bool = False,
    ) -> Result:
        """Predict one image (channels, x, y, z) with ``spacing`` among its properties.

        Returns:
            The segmentation, or with probabilities both; None if it was written.
        """
        made = self.predictor.predict_array(
            input_image,
            image_properties,
            previous_segmentation=_with_channel(segmentation_previous_stage),
            probabilities=save_or_return_probabilities,
        )
        return self._delivered(made, output_file_truncated)

    def predict_from_list_of_npy_arrays(
        self,
        image_or_list_of_images: Array | Sequence[Array],
        segs_from_prev_stage_or_list_of_segs_from_prev_stage: Array | Sequence[Array] | None,
        properties_or_list_of_properties: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        truncated_ofname: str | Path | Sequence[str | Path] | None,
        num_processes: int = _NUM_THREADS,
        save_probabilities: bool = False,
        num_processes_segmentation_export: int = _NUM_THREADS,
    ) -> list[Result]:
        """Predict one or several images, see :meth:`predict_single_npy_array`."""
        items = self.get_data_iterator_from_raw_npy_data(
            image_or_list_of_images,
            segs_from_prev_stage_or_list_of_segs_from_prev_stage,
            properties_or_list_of_properties,
            truncated_ofname,
            num_processes,
        )
        return self.predict_from_data_iterator(items, save_probabilities, num_processes_segmentation_export)

    def get_data_iterator_from_raw_npy_data(
        self,
        image_or_list_of_images: Array | Sequence[Array],
        segs_from_prev_stage_or_list_of_segs_from_prev_stage: Array | Sequence[Array] | None,
        properties_or_list_of_properties: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        truncated_ofname: str | Path | Sequence[str | Path] | None,
        num_processes: int = _NUM_THREADS,
    ) -> Generator[Item, None, None]:
        """Preprocess images, a few ahead.

        Yields:
            ``data`` (tensor), ``data_properties``, ``ofile``, and ``prepared``, which nnU-Net does not have.
        """
        images = _listed(image_or_list_of_images, np.ndarray)
        number = len(images)
        previous = _listed(segs_from_prev_stage_or_list_of_segs_from_prev_stage, np.ndarray) or [None] * number
        properties = _listed(properties_or_list_of_properties, Mapping)
        outputs = _listed(truncated_ofname, (str, Path)) or [None] * number
        results = overlapped(
            zip(images, properties, previous, outputs, strict=True),
            load=lambda item: self.predictor.prepare(item[0], item[1], _with_channel(item[2])),
            predict=lambda _, prepared: prepared,
            export=lambda _, prepared: prepared,
            num_readers=max(1, min(num_processes, number)),
        )
        with contextlib.closing(results):
            for (_, _, _, output), prepared in results:
                if isinstance(prepared, Exception):
                    raise prepared
                yield {
                    "data": torch.from_numpy(prepared.image),
                    "data_properties": prepared.properties,
                    "ofile": None if output is None else str(output),
                    "prepared": prepared,
                }

    def predict_from_data_iterator(
        self,
        data_iterator: Iterable[Item],
        save_probabilities: bool = False,
        num_processes_segmentation_export: int = _NUM_THREADS,
    ) -> list[Result]:
        """Predict preprocessed images.

        Args:
            data_iterator: Gives ``data`` (tensor, or path of a ``.npy`` file, which is deleted after it was read),
                ``data_properties`` and ``ofile`` (path without ending, or None).
            save_probabilities: Write or give probabilities, too.
            num_processes_segmentation_export: How many are resampled and written at the same time.
        """
        predictor = self.predictor

        def export(item: Item, predicted: tuple[Tensor, Prepared]) -> Result:
            return self._delivered(predictor.finish(*predicted, save_probabilities), item["ofile"])

        def predict(_: Item, prepared: Prepared) -> tuple[Tensor, Prepared]:
            return predictor.predict_logits(prepared.image), prepared

        results = overlapped(
            data_iterator,
            load=_loaded,
            predict=predict,
            export=export,
            num_exporters=max(1, num_processes_segmentation_export),
        )
        made: list[Result] = []
        failures: dict[str, Exception] = {}
        with contextlib.closing(results):
            for index, (item, outcome) in enumerate(results):
                if isinstance(outcome, Exception):
                    failures[str(item["ofile"] or f"image {index}")] = outcome
                else:
                    made.append(outcome)
        _raise_for(failures)
        return made

    def predict_logits_from_preprocessed_data(self, data: Tensor) -> Tensor:
        """Logits of a preprocessed image, averaged over the folds: (classes, x, y, z), float16, on the CPU."""
        return _half(self.predictor.predict_logits(data))

    def predict_sliding_window_return_logits(self, input_image: Tensor) -> Tensor:
        """Logits of a preprocessed image with the weights that the network has at the moment."""
        return _half(self.predictor.window.predict_logits(input_image))

    def _cases(
        self,
        source: str | Path | Sequence[Sequence[str | Path]],
        target: str | Path | Sequence[str | Path] | None,
        previous: str | Path | None,
    ) -> list[InputCase]:
        description = self.predictor.model.description
        ending = description.file_ending
        if isinstance(source, str | Path):
            found = cases_in_folder(Path(source), ending, description.num_channels)
            files, names = [c.images for c in found], [c.identifier for c in found]
        else:
            files = [tuple(Path(p) for p in paths) for paths in source]
            names = [paths[0].name[: -len(ending) - len("_0000")] for paths in files]
        outputs: list[Path | None]
        if target is None:
            outputs = [None] * len(files)
        elif isinstance(target, str | Path):
            outputs = [Path(target) / name for name in names]
        else:
            outputs = [Path(path) for path in target]
        return [
            InputCase(
                name=name,
                images=images,
                previous_segmentation=None if previous is None else Path(previous) / f"{name}{ending}",
                output=output,
            )
            for name, images, output in zip(names, files, outputs, strict=True)
        ]

    def _write_beside(self, target: str | Path | Sequence[str | Path] | None, arguments: Mapping[str, Any]) -> None:
        """The files that nnU-Net puts beside predictions."""
        if target is None or not (isinstance(target, str | Path) or target):
            return
        folder = Path(target) if isinstance(target, str | Path) else Path(target[0]).parent
        model = self.predictor.model
        make_folder(folder)
        write_json(folder / _ARGUMENTS_FILE, dict(arguments), sort_keys=True)
        write_json(folder / "dataset.json", dict(model.dataset_json))
        write_json(folder / "plans.json", model.plans.to_json())

    def _exists(self, output: Path, probabilities: bool) -> bool:
        ending = self.predictor.model.description.file_ending
        return Outputs(folder=output.parent, file_ending=ending, probabilities=probabilities).exists(output.name)

    def _run(
        self, cases: Sequence[InputCase], probabilities: bool, num_readers: int, num_exporters: int
    ) -> list[Result]:
        results: list[Result] = []
        failures: dict[str, Exception] = {}
        number = len(cases)
        for result in self.predictor.predict_cases(
            cases,
            save_probabilities=probabilities,
            num_readers=min(num_readers, number),
            num_exporters=min(num_exporters, number),
            progress=self.allow_tqdm,
        ):
            if self.verbose:
                _log.info("%s: %s", result.case.name, f"{result.seconds:.1f} s")
            if result.error is not None:
                failures[result.case.name] = result.error
            else:
                results.append(None if result.prediction is None else _arrays(result.prediction))
        _raise_for(failures)
        return results

    def _delivered(self, made: Prediction, output: str | Path | None) -> Result:
        if output is None:
            return _arrays(made)
        self.predictor.write(made, Path(output))
        return None


def _arrays(made: Prediction) -> Array | tuple[Array, NDArray[np.float32]]:
    return made.segmentation if made.probabilities is None else (made.segmentation, made.probabilities)


def _half(logits: Tensor) -> Tensor:
    largest = torch.finfo(torch.float16).max
    return logits.clamp(-largest, largest).half()


def _loaded(item: Item) -> Prepared:
    data = item["data"]
    if isinstance(data, str | Path):
        path, data = Path(data), np.load(data)
        path.unlink()
    prepared = item.get("prepared") or Prepared(data, {})
    return replace(prepared, image=np.asarray(data, np.float32), properties=dict(item["data_properties"]))


def _with_channel(segmentation: Array | None) -> Array | None:
    return segmentation[None] if segmentation is not None and segmentation.ndim == 3 else segmentation


def _listed(one_or_more: Any, kind: Any) -> list[Any]:
    if one_or_more is None:
        return []
    return [one_or_more] if isinstance(one_or_more, kind) else list(one_or_more)


def _raise_for(failures: Mapping[str, Exception]) -> None:
    if failures:
        first = next(iter(failures.values()))
        reasons = "\n  ".join(f"{name}: {error}".replace("\n", "\n    ") for name, error in failures.items())
        raise PredictionError(f"{counted(len(failures), 'case')} cannot be predicted.\n  {reasons}") from first


def _plans(plans: Any) -> Plans:
    content = plans if isinstance(plans, Plans | Mapping) else getattr(plans, "plans", None)
    return content if isinstance(content, Plans) else Plans.from_json(content, "the given plans")


def _configuration(configuration: Any, plans: Plans) -> Configuration:
    if isinstance(configuration, Configuration):
        return configuration
    if isinstance(configuration, str):
        return plans.configuration(configuration)
    findings = Findings("configuration", "The given object")
    entries = configuration if isinstance(configuration, Mapping) else getattr(configuration, "configuration", {})
    made = Configuration.read("given", entries, findings)
    findings.raise_if_any()
    return made
