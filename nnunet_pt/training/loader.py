"""Batches for training, in order, made ahead of time by worker processes or at once in this one.

The batches are the same, bit for bit, for any number of workers and wherever a training begins. A worker that fails
or is killed ends the training with one error that names the case and the reason.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.util import Finalize
from types import TracebackType

from nnunet_pt.core.console import get_logger
from nnunet_pt.core.errors import UsageError
from nnunet_pt.core.resources import available_cpus
from nnunet_pt.core.settings import Settings
from nnunet_pt.training.augmentation.base import Pipeline
from nnunet_pt.training.batches import Batch, BatchMaker, one_thread
from nnunet_pt.training.loader_worker import LoaderWorker, explained
from nnunet_pt.training.patches import PatchSource
from nnunet_pt.training.sampling import PatchSampler

__all__ = ["Batch", "BatchLoader", "default_num_workers"]

MOST_WORKERS = 12
_BEFORE_WORKERS_AT_EXIT = 10

_log = get_logger(__name__)


def default_num_workers(purpose: str, settings: Settings) -> int:
    """How many worker processes make batches: ``nnUNet_n_proc_DA``, else one for each CPU up to 12.

    The training processes of one machine share its CPUs.

    Args:
        purpose: "val" takes half of them, but at least one if there are any.
        settings: Parsed environment.
    """
    asked = settings.num_augmentation_processes
    sharing = 1 if settings.launch is None else settings.launch.local_size
    number = asked if asked is not None else max(1, min(MOST_WORKERS, available_cpus() // sharing))
    return max(1, number // 2) if purpose == "val" and number > 0 else number


class BatchLoader:
    """An iterator over batches, from any step on.

    Args:
        source: The cases.
        sampler: Where patches come from.
        pipeline: The augmentation. Without one, batches carry the patches as they were read, and the samples'
            random generators, so that the same augmentation can be done elsewhere.
        batch_size: Samples of this process.
        global_batch_size: Samples of all processes together; as many by default.
        sample_offset: Index of this process's first sample in the global batch.
        seed: The training's seed, at least 0.
        purpose: "train" or "val".
        num_workers: Worker processes; 0 makes each batch in this process when it is asked for.
        prefetch: Finished batches that may wait, beside those that the workers work on.
        pin_memory: Copy batches to page-locked memory for asynchronous transfer to a GPU.
        start_method: How worker processes are started: "fork" on Linux, "spawn" elsewhere by default.

    Attributes:
        waited_s: How long the training waited for the last batch.

    Raises:
        UsageError: If a number is out of its range.
    """

    def __init__(
        self,
        source: PatchSource,
        sampler: PatchSampler,
        pipeline: Pipeline | None,
        *,
        batch_size: int,
        global_batch_size: int | None = None,
        sample_offset: int = 0,
        seed: int,
        purpose: str = "train",
        num_workers: int = 0,
        prefetch: int | None = None,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        if batch_size < 1 or seed < 0 or num_workers < 0 or (prefetch is not None and prefetch < 0):
            raise UsageError(
                "The data cannot be loaded like this.",
                found=f"batch size {batch_size}, seed {seed}, {num_workers} workers, prefetch {prefetch}",
                expected="a batch size of at least 1, nothing below 0",
            )
        self._maker = BatchMaker(
            source=source,
            sampler=sampler,
            pipeline=pipeline,
            batch_size=batch_size,
            global_batch_size=batch_size if global_batch_size is None else global_batch_size,
            sample_offset=sample_offset,
            seed=seed,
            purpose=purpose,
        )
        self._num_workers = num_workers
        waiting = max(6 if purpose == "train" else 3, num_workers // 2) if prefetch is None else prefetch
        self._ahead = num_workers + waiting
        self._pin_memory = pin_memory
        self._start_method = start_method
        self._engine: _Engine | None = None
        self._next_step = 0
        self._last_step: int | None = None  # exclusive; None: no end
        self._is_open = False
        self._said: set[str] = set()
        self.waited_s = 0.0

    def start(self, first_step: int = 0, num_steps: int | None = None) -> BatchLoader:
        """Deliver the batches from a step on; what was made of others is forgotten.

        Args:
            first_step: The step of the next batch.
            num_steps: How many batches will be asked for; without it they never end.
        """
        self.close()
        self._next_step = first_step
        self._last_step = None if num_steps is None else first_step + num_steps
        self._is_open = True
        if self._num_workers > 0:
            self._engine = _Engine(self._maker, self._num_workers, self._ahead, self._start_method, self._pin_memory)
            self._engine.start(self._next_step, self._last_step)
        return self

    def __iter__(self) -> BatchLoader:
        return self

    def __next__(self) -> Batch:
        """The batch of the next step.

        Raises:
            StopIteration: After the last step.
            NnunetError: If it could not be made; names the case and the reason. The loader is closed.
        """
        if not self._is_open:
            raise RuntimeError("the loader was not started, or is closed")
        if self._next_step == self._last_step:
            raise StopIteration
        started = time.perf_counter()
        try:
            batch = self._engine.next() if self._engine is not None else self._make()
        except BaseException:
            self.close()
            raise
        self._next_step += 1
        for text in set(batch.warnings) - self._said:  # each worker would say it once more
            _log.warning(text)
            self._said.add(text)
        self.waited_s = time.perf_counter() - started
        return batch

    def close(self) -> None:
        """End the worker processes; batches that were delivered stay valid."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        self._is_open = False

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self) -> Batch:
        working_on: tuple[int, str] | None = None

        def note(case: str) -> None:
            nonlocal working_on
            working_on = (self._next_step, case)

        try:
            with one_thread():
                batch = self._maker.make(self._next_step, note=note)
        except Exception as error:
            shown = explained(error, working_on, self._maker.purpose)
            if shown is error:
                raise
            raise shown from error
        return _pinned(batch) if self._pin_memory else batch


class _Engine:
    """Worker processes, each asked for the next step when it has the least to do; batches come out in order."""

    def __init__(
        self, maker: BatchMaker, num_workers: int, ahead: int, start_method: str | None, pin_memory: bool
    ) -> None:
        self._workers: list[LoaderWorker] = []
        # At the exit of the interpreter before multiprocessing waits for its children
        self._end = Finalize(self, _kill_all, (self._workers,), exitpriority=_BEFORE_WORKERS_AT_EXIT)
        for _ in range(num_workers):
            self._workers.append(LoaderWorker(maker, start_method))
        self._ahead = ahead
        self._asked: deque[LoaderWorker] = deque()  # whose turn it is
        self._next_step = 0
        self._last_step: int | None = None
        self._pinning = ThreadPoolExecutor(1, thread_name_prefix="nnunet_pt-pin") if pin_memory else None
        self._pinned: Future[Batch] | None = None

    def start(self, first_step: int, last_step: int | None) -> None:
        """Begin to work."""
        self._next_step, self._last_step = first_step, last_step
        self._ask()
        if self._pinning is not None and self._asked:
            self._pinned = self._pinning.submit(self._receive_pinned)

    def next(self) -> Batch:
        """The batch of the next step."""
        if self._pinning is None or self._pinned is None:
            return self._receive()
        batch = self._pinned.result()
        self._pinned = self._pinning.submit(self._receive_pinned) if self._asked else None
        return batch

    def close(self) -> None:
        """End all processes."""
        self._end()
        if self._pinning is not None:
            self._pinning.shutdown(wait=True)

    def _ask(self) -> None:
        while len(self._asked) < self._ahead and self._next_step != self._last_step:
            worker = min(self._workers, key=lambda w: w.outstanding)
            worker.ask(self._next_step)
            self._asked.append(worker)
            self._next_step += 1

    def _receive(self) -> Batch:
        batch = self._asked.popleft().receive()
        self._ask()
        return batch

    def _receive_pinned(self) -> Batch:
        return _pinned(self._receive())


def _pinned(batch: Batch) -> Batch:
    """The batch in page-locked memory, which a GPU can copy from while the CPU goes on."""
    batch.data = batch.data.pin_memory()
    batch.targets = [t.pin_memory() for t in batch.targets]
    return batch


def _kill_all(workers: list[LoaderWorker]) -> None:
    for worker in workers:
        with contextlib.suppress(Exception):
            worker.kill()
