"""The event loop and the timer thread: order, threads, and that an error does not end them."""

from __future__ import annotations

import os
import threading
import time

import pytest

from pyhv.events import EventLoop
from pyhv.timerthread import TimerThread


@pytest.fixture
def running():
    errors: list[BaseException] = []
    loop = EventLoop(errors.append)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield loop, errors
    loop.call(loop.end)
    thread.join(5)
    assert not thread.is_alive()
    loop.close()


def test_call_runs_on_the_loop_thread(running) -> None:
    loop, _ = running
    seen: list[threading.Thread] = []
    done = threading.Event()
    loop.call(lambda: (seen.append(threading.current_thread()), done.set()))
    assert done.wait(5)
    assert seen == [loop.thread]


def test_descriptor_and_removal(running) -> None:
    loop, _ = running
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    got: list[int] = []
    done = threading.Event()

    def ready() -> None:
        got.append(os.eventfd_read(fd))
        loop.remove(fd)
        done.set()

    loop.call(lambda: loop.add(fd, ready))
    os.eventfd_write(fd, 3)
    assert done.wait(5)
    os.eventfd_write(fd, 1)
    time.sleep(0.02)
    assert got == [3]
    os.close(fd)


def test_after_keeps_order_and_is_not_early(running) -> None:
    loop, _ = running
    done = threading.Event()
    order: list[tuple[str, float]] = []
    start = time.monotonic()
    loop.after(0.05, lambda: (order.append(("late", time.monotonic() - start)), done.set()))
    loop.after(0.01, lambda: order.append(("soon", time.monotonic() - start)))
    assert done.wait(5)
    assert [name for name, _ in order] == ["soon", "late"]
    assert order[0][1] >= 0.01
    assert order[1][1] >= 0.05


def test_error_in_a_callback_is_told_and_the_loop_goes_on(running) -> None:
    loop, errors = running
    done = threading.Event()
    loop.call(lambda: 1 // 0)
    loop.call(done.set)
    assert done.wait(5)
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_call_after_close_is_harmless() -> None:
    loop = EventLoop(lambda error: None)
    loop.close()
    loop.call(lambda: None)


@pytest.fixture
def timers():
    errors: list[BaseException] = []
    timers = TimerThread(errors.append)
    yield timers, errors
    timers.close()


def test_timer_fires_once_and_not_early(timers) -> None:
    fired: list[int] = []
    due = time.monotonic_ns() + 5_000_000
    timers[0].arm("a", due, lambda: fired.append(time.monotonic_ns()))
    time.sleep(0.05)
    assert len(fired) == 1
    assert fired[0] >= due


def test_timer_rearmed_and_disarmed(timers) -> None:
    fired: list[str] = []
    now = time.monotonic_ns()
    timers[0].arm("a", now + 5_000_000, lambda: fired.append("old"))
    timers[0].arm("a", now + 20_000_000, lambda: fired.append("new"))
    timers[0].arm("b", now + 5_000_000, lambda: fired.append("gone"))
    timers[0].arm("b", None, lambda: None)
    time.sleep(0.08)
    assert fired == ["new"]


def test_timer_may_rearm_itself(timers) -> None:
    done = threading.Event()
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == 20:
            done.set()
        else:
            timers[0].arm("t", time.monotonic_ns() + 500_000, tick)

    timers[0].arm("t", time.monotonic_ns(), tick)
    assert done.wait(5)


def test_rearm_storm_keeps_the_heap_small(timers) -> None:
    far = time.monotonic_ns() + 10**12
    for i in range(20_000):
        timers[0].arm("a", far - i, lambda: None)
    assert len(timers[0]._heap) < 200


def test_timer_error_is_told(timers) -> None:
    timers[0].arm("a", 0, lambda: 1 // 0)
    time.sleep(0.03)
    assert [type(error) for error in timers[1]] == [ZeroDivisionError]


def test_timers_leave_no_thread() -> None:
    before = threading.active_count()
    for _ in range(20):
        timers = TimerThread(lambda error: None)
        timers.arm("a", time.monotonic_ns(), lambda: None)
        timers.close()
    assert threading.active_count() == before
