"""pyhv.aio on a KVM: every call is awaited, can be cancelled, and leaves nothing."""

from __future__ import annotations

import asyncio
import re
import threading
import time

import pytest
from guestcode import sector
from test_agent_guest import ECHO as COM2_ECHO

from pyhv.aio import AsyncMachine
from pyhv.awaiting import in_thread
from pyhv.console import ExpectError, ExpectTimeout
from pyhv.errors import ConfigError

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]

#: prints a line, then repeats what is typed; an 'x' powers off
ECHO = """
        outb 0x3f8, 'h'
        outb 0x3f8, 'i'
        outb 0x3f8, 10
1:      read_com1
        cmp $'x', %al
        je 2f
        out %al, %dx
        jmp 1b
2:      power_off
"""
S = 30.0


def made(body: str = ECHO, **options: object) -> AsyncMachine:
    return AsyncMachine(**({"kernel": sector(body), "cpu": "host", "memory": "2M"} | options))


def run(main) -> None:
    """Run *main*; the loop must never have been held up for long."""

    async def watched() -> None:
        late = 0.0

        async def tick() -> None:
            nonlocal late
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                late = max(late, time.monotonic() - before)

        ticker = asyncio.create_task(tick())
        await main()
        ticker.cancel()
        assert late < 2, f"the event loop stood for {late:.1f} s"

    asyncio.run(watched())


def test_a_life() -> None:
    async def main() -> None:
        async with made() as vm:
            await vm.start()
            assert await vm.console.expect("hi", timeout=S) == "hi"
            await vm.console.send("abc\n")
            assert await vm.console.expect(re.compile("b(c)"), timeout=S)
            await vm.pause()
            assert vm.machine.paused
            await vm.resume()
            await vm.console.send("x")
            assert (await vm.wait(timeout=S)).kind == "poweroff"
            assert "abc" in vm.console.text()
            with pytest.raises(ExpectError, match="the machine stopped"):
                await vm.console.expect("more", timeout=S)

    run(main)


def test_many_side_by_side() -> None:
    async def one(number: int) -> str:
        async with made() as vm:
            await vm.start()
            await vm.console.expect("hi", timeout=S)
            await vm.console.send(f"{number}\n")
            found = await vm.console.expect(f"{number}", timeout=S)
            await vm.console.send("x")
            return found.strip() + (await vm.wait(timeout=S)).kind

    async def main() -> None:
        found = await asyncio.gather(*(one(number) for number in range(5)))
        assert found == [f"{number}poweroff" for number in range(5)]

    run(main)


def test_deadlines() -> None:
    async def main() -> None:
        async with made() as vm:
            with pytest.raises(ConfigError, match="was not started"):
                await vm.wait(timeout=1)
            await vm.start()
            with pytest.raises(TimeoutError, match=r"still runs after 0\.1 s"):
                await vm.wait(timeout=0.1)
            with pytest.raises(ExpectTimeout, match=r"not within 0\.1 s"):
                await vm.console.expect("never", timeout=0.1)
            with pytest.raises(ConfigError, match="no agent"):
                await vm.run("true")

    run(main)


@pytest.mark.parametrize("what", ["wait", "expect", "run", "push", "connect"])
def test_cancelled(what: str) -> None:
    async def main() -> None:
        async with made(COM2_ECHO, agent=True, cpu=None) as vm:  # with VMBus, to connect
            await vm.start()
            call = {
                "wait": lambda: vm.wait(),
                "expect": lambda: vm.console.expect("never", timeout=100),
                "run": lambda: vm.run("true", timeout=100),
                "push": lambda: vm.push(b"x", "/x", timeout=100),
                "connect": lambda: vm.open_connection(7, timeout=100),
            }[what]
            task = asyncio.create_task(call())
            await asyncio.sleep(0.3)
            assert not task.done()
            task.cancel()
            begin = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begin < 2
            assert not [one for one in threading.enumerate() if one.name == "aio"]

    run(main)


def test_a_timeout_around_it_all() -> None:
    async def main() -> None:
        async with asyncio.timeout(0.5), made(COM2_ECHO, agent=True) as vm:
            await vm.start()
            await vm.run("true", timeout=100)

    with pytest.raises(TimeoutError):
        run(main)


def test_what_a_thread_raises_is_raised_here() -> None:
    def fail() -> None:
        raise ConfigError("no")

    async def main() -> None:
        with pytest.raises(ConfigError, match="no"):
            await in_thread(fail)
        assert await in_thread(lambda: 7) == 7
        # cancelled, and cancelled again: it goes when the function has ended
        ended = threading.Event()
        task = asyncio.create_task(in_thread(lambda: (time.sleep(0.5), ended.set())))
        for _ in range(3):
            await asyncio.sleep(0.05)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    run(main)
