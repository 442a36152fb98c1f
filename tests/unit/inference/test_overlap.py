"""Reading ahead, predicting, writing behind: order, bounds, failures, interruptions."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nnunet_pt.inference.overlap import overlapped

WAYS = pytest.mark.parametrize("workers", [(0, 0), (1, 1), (3, 2)], ids=["in turn", "one each", "several"])


def run(items: Any, *, workers: tuple[int, int] = (1, 1), **steps: Any) -> list[tuple[Any, Any]]:
    same = {"load": lambda x: x, "predict": lambda _, x: x, "export": lambda _, x: x}
    return list(overlapped(items, num_readers=workers[0], num_exporters=workers[1], **{**same, **steps}))


def no_threads_left() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("nnunet_pt-")]


def failing(at: Any, error: BaseException) -> Callable[..., Any]:
    def step(*arguments: Any) -> Any:
        if arguments[0] == at:
            raise error
        return arguments[-1]

    return step


@WAYS
def test_results_come_in_order_with_what_each_step_gave(workers: tuple[int, int]) -> None:
    def slow_first(item: int, predicted: int) -> tuple[int, int]:
        time.sleep(0.05 if item == 0 else 0)
        return item, predicted

    made = run(range(8), workers=workers, load=lambda x: 10 * x, predict=lambda x, y: x + y, export=slow_first)
    assert made == [(i, (i, 11 * i)) for i in range(8)]
    assert no_threads_left()


@WAYS
def test_nothing_to_do(workers: tuple[int, int]) -> None:
    assert run([], workers=workers) == []


@WAYS
@pytest.mark.parametrize("step", ["load", "predict", "export"])
@pytest.mark.parametrize("error", [ValueError("no"), MemoryError()], ids=["error", "no memory"])
def test_a_failure_costs_one_item(workers: tuple[int, int], step: str, error: Exception) -> None:
    made = run(range(5), workers=workers, **{step: failing(2, error)})
    assert [item for item, _ in made] == [0, 1, 2, 3, 4]
    assert made[2][1] is error
    assert [outcome for _, outcome in made if outcome is not error] == [0, 1, 3, 4]


@WAYS
@pytest.mark.parametrize("step", ["load", "predict", "export"])
def test_an_interruption_stops_everything(workers: tuple[int, int], step: str) -> None:
    begun: list[int] = []

    def load(item: int) -> int:
        begun.append(item)
        if step == "load" and item == 2:
            raise KeyboardInterrupt
        return item

    steps = {"load": load} if step == "load" else {"load": load, step: failing(2, KeyboardInterrupt())}
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(range(1000), workers=workers, **steps)
    assert time.monotonic() - start < 5
    assert len(begun) < 20
    assert no_threads_left()


@pytest.mark.parametrize("num_readers", [1, 3])
@pytest.mark.parametrize("num_exporters", [1, 2])
@pytest.mark.parametrize("slow", ["load", "predict", "export", "caller"])
def test_no_more_items_are_held_than_allowed(num_readers: int, num_exporters: int, slow: str) -> None:
    lock, loaded, predicted, most = threading.Lock(), set(), set(), {"loaded": 0, "predicted": 0}

    def note(change: Callable[[], None]) -> None:
        with lock:
            change()
            most["loaded"] = max(most["loaded"], len(loaded))
            most["predicted"] = max(most["predicted"], len(predicted))

    def step(name: str) -> None:
        time.sleep(0.01 if name == slow else 0)

    def load(item: int) -> int:
        note(lambda: loaded.add(item))
        step("load")
        return item

    def predict(item: int, _: int) -> int:
        step("predict")
        note(lambda: loaded.remove(item))
        note(lambda: predicted.add(item))
        return item

    def export(item: int, _: int) -> int:
        step("export")
        note(lambda: predicted.remove(item))
        return item

    results = overlapped(
        range(12), load=load, predict=predict, export=export, num_readers=num_readers, num_exporters=num_exporters
    )
    for _ in results:
        step("caller")
    assert most["loaded"] <= num_readers + 1
    assert most["predicted"] <= num_exporters + 1
    if slow == "predict":
        assert most["loaded"] == num_readers + 1  # it does read ahead
    if slow == "export":
        assert most["predicted"] == num_exporters + 1


def test_the_steps_overlap() -> None:
    """Three steps of 20 ms for ten items take 600 ms one after another."""
    start = time.monotonic()
    run(range(10), **{n: lambda *a: time.sleep(0.02) or a[-1] for n in ("load", "predict", "export")})
    assert time.monotonic() - start < 0.45


def test_a_caller_that_stops_early_leaves_nothing_behind() -> None:
    begun: list[int] = []
    results = overlapped(
        range(1000),
        load=lambda x: begun.append(x) or x,
        predict=lambda _, x: x,
        export=lambda _, x: x,
        num_readers=2,
    )
    next(results)
    results.close()
    assert no_threads_left()
    assert len(begun) < 20


@WAYS
def test_items_that_break_off_do_not_cost_those_before(workers: tuple[int, int]) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("the source is gone")

    made: list[Any] = []
    with pytest.raises(OSError, match="the source is gone"):
        for item, _ in overlapped(
            items(),
            load=lambda x: x,
            predict=lambda _, x: x,
            export=lambda _, x: x,
            num_readers=workers[0],
            num_exporters=workers[1],
        ):
            made.append(item)
    assert made == [0, 1, 2]
    assert no_threads_left()


class Big:
    """Stands for an image."""


@WAYS
@pytest.mark.parametrize("step", ["predict", "export"])
def test_a_kept_error_does_not_keep_the_image(workers: tuple[int, int], step: str) -> None:
    images: list[weakref.ref[Big]] = []

    def load(_: int) -> Big:
        image = Big()
        images.append(weakref.ref(image))
        return image

    def fail(_: int, image: Big) -> Any:
        local = image
        raise ValueError(type(local).__name__)

    made = run(range(3), workers=workers, load=load, **{step: fail})
    gc.collect()
    assert all(isinstance(outcome, ValueError) for _, outcome in made)
    assert [image() for image in images] == [None] * 3


def test_waiting_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnunet_pt.inference.overlap._TICK_S", 0.01)
    calls: list[bool] = []
    run(range(2), load=lambda x: time.sleep(0.05) or x, on_wait=lambda: calls.append(True))
    assert calls
