"""QMP of real guests, by the qemu.qmp package: from -S to a crash."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import subprocess
import sys
import time

import guestcode
import pytest
from libguest import SECONDS
from qemu.qmp import QMPClient

pytestmark = pytest.mark.kvm
ROOT = pathlib.Path(__file__).parents[2]

CRASH = (
    guestcode.IDENTIFY
    + """
        movq $0, 0x90000
1:      incq 0x90000
        cmpq $1000, 0x90000
        jb 1b
        wrmsr_of 0x40000100, 0xd1
        wrmsr_of 0x40000101, 11
        wrmsr_of 0x40000102, 12
        wrmsr_of 0x40000103, 13
        wrmsr_of 0x40000104, 14
        wrmsr_of 0x40000105, 0, 0x80000000
"""
)
RESET = guestcode.RESET_ONCE + "power_off\n"


def session(folder: pathlib.Path, kernel: str, conversation, *options: str) -> int:
    """Run pyhv with -S and -qmp, talk to it, and return its status."""
    path = folder / "qmp"
    process = subprocess.Popen(
        [sys.executable, "-m", "pyhv", "run", "-kernel", kernel, "-m", "16M", "-S",
         "-qmp", f"unix:{path},server=on,wait=off", *options],
        cwd=ROOT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip

    async def main() -> None:
        client = QMPClient("test")
        await client.connect(str(path))
        await conversation(client)
        with contextlib.suppress(EOFError):  # a machine that has ended closes the socket first
            await client.disconnect()

    try:
        deadline = time.monotonic() + SECONDS
        while not path.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        asyncio.run(asyncio.wait_for(main(), SECONDS))
        process.communicate(timeout=SECONDS)
        return process.returncode
    finally:
        process.kill()
        process.wait()


async def until(client: QMPClient, last: str) -> list[dict]:
    found = []
    async for event in client.events:
        found.append(event)
        if event["event"] == last:
            return found
    raise AssertionError(f"no {last}: {found}")


def test_crash(tmp_path: pathlib.Path, driver: str) -> None:
    async def conversation(client: QMPClient) -> None:
        assert await client.execute("query-status") == {"status": "prelaunch", "running": False}
        cpus = await client.execute("query-cpus-fast")
        assert [cpu["cpu-index"] for cpu in cpus] == [0, 1]
        assert all(cpu["thread-id"] for cpu in cpus)
        arguments = {"type": "full", "model": {"name": "host", "props": {"hv-time": True}}}
        model = await client.execute("query-cpu-model-expansion", arguments)
        assert model["model"]["props"]["hv-time"] is True
        await client.execute("cont")
        found = await until(client, "SHUTDOWN")
        panicked = found[-2]
        assert panicked["event"] == "GUEST_PANICKED"
        assert panicked["data"]["info"] == {
            "type": "hyper-v", "arg1": 0xD1, "arg2": 11, "arg3": 12, "arg4": 13, "arg5": 14,
        }  # fmt: skip

    kernel = guestcode.kernel(CRASH)
    options = ("-smp", "2", "--hyperv", driver, "-cpu", "host,hv_crash,hv_time,hv_vpindex")
    assert session(tmp_path, kernel, conversation, *options) == 5


def test_reset_and_power_off(tmp_path: pathlib.Path) -> None:
    async def conversation(client: QMPClient) -> None:
        await client.execute("cont")
        found = await until(client, "SHUTDOWN")
        assert [event["event"] for event in found] == ["RESUME", "RESET", "SHUTDOWN"]
        assert found[1]["data"] == {"guest": True, "reason": "guest-reset"}
        assert found[2]["data"] == {"guest": True, "reason": "guest-shutdown"}

    assert session(tmp_path, guestcode.sector(RESET), conversation, "-cpu", "host") == 0


def test_quit(tmp_path: pathlib.Path) -> None:
    async def conversation(client: QMPClient) -> None:
        await client.execute("cont")
        await client.execute("stop")
        assert await client.execute("query-status") == {"status": "paused", "running": False}
        await client.execute("system_reset")
        await client.execute("system_powerdown")
        await client.execute("quit")

    assert session(tmp_path, guestcode.sector("1: jmp 1b"), conversation, "-cpu", "host") == 130
