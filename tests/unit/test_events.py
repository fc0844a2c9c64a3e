"""The event loop and the timer thread: order, threads, and that an error does not end them."""

from __future__ import annotations

import os
import re
import threading
import time

import pytest

from pyhv.events import EventLoop
from pyhv.timerthread import Timer, Timers


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
    timers = Timers(errors.append)
    yield timers, errors
    timers.close()


MS = 1_000_000


def test_timer_fires_once_and_not_early(timers) -> None:
    fired: list[int] = []
    arm = timers[0].timer(lambda: fired.append(time.monotonic_ns()))
    due = time.monotonic_ns() + 5 * MS
    arm(due)
    time.sleep(0.05)
    assert len(fired) == 1
    assert fired[0] >= due


def test_timer_rearmed_and_disarmed(timers) -> None:
    fired: list[str] = []
    moved = timers[0].timer(lambda: fired.append("moved"))
    gone = timers[0].timer(lambda: fired.append("gone"))
    start = time.monotonic_ns()
    moved(start + 5 * MS)
    moved(start + 20 * MS)
    gone(start + 5 * MS)
    gone(0)
    while not fired:
        time.sleep(0.005)
        assert time.monotonic_ns() - start < 5_000 * MS
    assert time.monotonic_ns() - start >= 20 * MS
    time.sleep(0.03)
    assert fired == ["moved"]


def test_timer_may_rearm_itself(timers) -> None:
    done = threading.Event()
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == 20:
            done.set()
        else:
            arm(time.monotonic_ns() + MS // 2)

    arm = timers[0].timer(tick)
    arm(1)
    assert done.wait(5)


def test_one_that_expired_unseen_is_moved(timers) -> None:
    """Set again before its thread looked: it expires at the new time only."""
    hold, entered = threading.Event(), threading.Event()
    fired: list[int] = []

    def busy() -> None:
        fired.append(time.monotonic_ns())
        entered.set()
        hold.wait(5)

    arm = timers[0].timer(busy)
    arm(1)
    assert entered.wait(5)
    arm(1)
    time.sleep(0.01)  # it expires while the thread cannot see it
    due = time.monotonic_ns() + 30 * MS
    arm(due)
    hold.set()
    deadline = time.monotonic() + 5
    while len(fired) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert fired[1] >= due


@pytest.mark.parametrize("delay_ns", [999_999_999, 1_000_000_000, 1_500_000_000, 1 << 60])
def test_what_the_kernel_was_told(delay_ns: int) -> None:
    """/proc tells the time that is left; seconds of an earlier arming do not stay."""
    timer = Timer()
    timer.set(1 << 70)  # more than the kernel has
    for wanted in (5_000_000_000, delay_ns, 20 * MS):
        timer.set(time.monotonic_ns() + wanted)
        with open(f"/proc/self/fdinfo/{timer.fd}") as file:
            text = re.search(r"it_value: \((\d+), (\d+)\)", file.read())
        left = int(text[1]) * 1_000_000_000 + int(text[2])
        assert 0 <= wanted - left < 10 * MS
    timer.close()
    timer.set(1)  # nothing: no other descriptor may be meant


def test_timer_error_is_told(timers) -> None:
    timers[0].timer(lambda: 1 // 0)(1)
    deadline = time.monotonic() + 5
    while not timers[1]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert [type(error) for error in timers[1]] == [ZeroDivisionError]


def test_timers_leave_nothing() -> None:
    before, fds = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        timers = Timers(lambda error: None)
        timers.timer(lambda: None)(1)
        timers.timer(lambda: None)(1 << 62)
        timers.close()
        timers.timer(lambda: None)(1)  # too late: no timer
    assert threading.active_count() == before
    assert len(os.listdir("/proc/self/fd")) == fds


def test_held_timers_call_nobody(timers) -> None:
    """What expires meanwhile is called after the release, and a call under way is waited for."""
    seen: list[str] = []
    entered = threading.Event()

    def slow() -> None:
        entered.set()
        time.sleep(0.03)
        seen.append("slow")

    slowly, quickly = timers[0].timer(slow), timers[0].timer(lambda: seen.append("quick"))
    slowly(1)
    assert entered.wait(5)
    timers[0].hold()
    assert seen == ["slow"]
    quickly(1)
    late = timers[0].timer(lambda: seen.append("late"))
    late(1)
    time.sleep(0.03)
    assert seen == ["slow"]
    timers[0].release()
    deadline = time.monotonic() + 5
    while set(seen) != {"slow", "late", "quick"}:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_timers_closed_while_held() -> None:
    timers = Timers(lambda error: None)
    timers.timer(lambda: None)(1)
    timers.hold()
    timers.close()
