"""hv_sock of Debian's kernels, both ways, under both drivers: sockets, a Unix path, a shell."""

from __future__ import annotations

import os
import socket
import threading
import time

import perl_initrd
import pytest
from conftest import BOOT_S, COMMAND_S, drivers, image

from pyhv.vsock.sockets import NobodyListens

pytestmark = [pytest.mark.boot, pytest.mark.kvm]
DATA = os.urandom(300_000)
CALL = (
    'syswrite(S,"hello host\n");sysread(S,$a,12);print $a;'
    "while(sysread(S,$b,65536)){$n+=length$b}print $n"
)


@pytest.fixture(params=drivers())
def booted(boot, request: pytest.FixtureRequest, tmp_path):
    def make(suite: str):
        loading = perl_initrd.build(suite, tmp_path / "initrd")
        vm = boot(
            kernel=image("kernel", suite)[0], initrd=str(tmp_path / "initrd"),
            append="console=ttyS0 quiet", memory="512M", hyperv=request.param, agent=True,
        ).vm  # fmt: skip
        vm.run(";".join(loading), BOOT_S, check=True)
        return vm

    return make


def echoed(one: socket.socket, data: bytes) -> bytes:
    """Send *data* and the end; return what comes back until its end."""
    one.settimeout(COMMAND_S)
    thread = threading.Thread(target=lambda: (one.sendall(data), one.shutdown(socket.SHUT_WR)))
    thread.start()
    found = bytearray()
    while more := one.recv(65536):
        found += more
    thread.join()
    return bytes(found)


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_streams(booted, suite: str, tmp_path) -> None:
    vm = booted(suite)
    vsock, server = vm.vsock, vm.board.vmbus
    vm.run(perl_initrd.server(7, perl_initrd.ECHO), COMMAND_S)
    with vsock.connect(7, COMMAND_S) as one:
        assert echoed(one, DATA) == DATA
    vsock.publish(7, tmp_path / "echo")
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(tmp_path / "echo"))
        assert echoed(one, b"through a path") == b"through a path"
    with pytest.raises(NobodyListens):
        vsock.connect(12345, 2)

    answers: list[str] = []
    call = threading.Thread(
        target=lambda: answers.append(vm.run(perl_initrd.client(9, CALL), COMMAND_S).text)
    )
    with vsock.listen(9) as listener:
        call.start()
        with listener.accept(COMMAND_S) as one:
            assert one.recv(100) == b"hello host\n"
            one.sendall(b"hello guest\n" + DATA)
        call.join()
    assert answers == [f"hello guest\n{len(DATA)}"]
    assert vm.run(perl_initrd.client(9, ""), COMMAND_S).status  # nobody listens any more

    vm.run(perl_initrd.server(1024, perl_initrd.SHELL), COMMAND_S)
    with vsock.shell(1024, COMMAND_S) as shell:
        assert shell.run("echo out; echo err >&2; exit 5", COMMAND_S)[:3] == (5, b"out\n", b"err\n")
        shell.push(DATA, "/tmp/data", COMMAND_S)
        assert shell.pull("/tmp/data", timeout=COMMAND_S) == DATA
    end = time.monotonic() + COMMAND_S
    while server.sockets.connections:  # the last one's end is on its way
        assert time.monotonic() < end
        time.sleep(0.1)
    assert server.violation_count == 0
    vm.run("poweroff -f &", COMMAND_S)
    assert vm.wait(timeout=COMMAND_S).kind == "poweroff"
