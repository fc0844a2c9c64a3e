"""What cannot be built or started is refused in one line, and nothing stays open."""

from __future__ import annotations

import pathlib
import resource
import threading

import pytest
from libguest import SECONDS, descriptors, machine

from pyhv import Machine, PyhvError
from pyhv.errors import HostError

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]

SPIN = "1: jmp 1b"
DONE = "exit 5"


def _files(folder: pathlib.Path) -> None:
    (folder / "text").write_text("no kernel")
    (folder / "odd.img").write_bytes(bytes(1000))
    (folder / "good.img").write_bytes(bytes(4096))


# options, what the one line says
REFUSED = {
    "no such kernel": ({"kernel": "{}/none"}, "none"),
    "not a kernel": ({"kernel": "{}/text"}, "not a kernel"),
    "kernel is a folder": ({"kernel": "{}"}, "directory"),
    "no such disk": ({"disk": "{}/none.img"}, "none.img"),
    "truncated disk": ({"disk": "{}/odd.img"}, "odd.img"),
    "disk is a folder": ({"disk": "{}"}, "irectory"),
    "second disk bad": ({"drives": ["{}/good.img", "{}/none.img"]}, "none.img"),
    "unknown flag": ({"kernel": "{}/text", "cpu": "host,hv_tim"}, "hv_tim"),
    "missing flags": ({"kernel": "{}/text", "cpu": "host,hv_stimer"}, "hv"),
    "too many vCPUs": ({"kernel": "{}/text", "smp": 255}, "255"),
    "too little memory": ({"kernel": "{}/text", "memory": "64K"}, "memory"),
    "too much memory": ({"kernel": "{}/text", "memory": "64T"}, "more memory than"),
    "unknown option": ({"kernel": "{}/text", "momery": "1M"}, "did you mean memory?"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: pathlib.Path) -> None:
    """One line; what had been opened is closed again."""
    _files(tmp_path)
    options, text = REFUSED[name]
    filled = {}
    for key, value in options.items():
        if isinstance(value, list):
            filled[key] = [item.format(tmp_path) for item in value]
        else:
            filled[key] = value.format(tmp_path) if isinstance(value, str) else value
    before = descriptors()
    with pytest.raises(PyhvError) as refusal:
        Machine(**filled)
    assert text in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert descriptors() == before


@pytest.mark.parametrize("cpu", ["host", None])
def test_few_descriptors(cpu: str | None) -> None:
    """With every limit from "none left" on: one line, or a machine that runs; never a leak."""
    with machine(DONE, cpu=cpu, smp=2):
        pass  # what is imported on first use needs descriptors, too
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lines: list[str] = []
    for limit in range(3, 100):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            with machine(DONE, cpu=cpu, smp=2) as vm:
                vm.start()
                assert vm.wait(SECONDS).status == 11
                break
        except PyhvError as error:
            lines.append(str(error))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert descriptors() == before
    else:
        pytest.fail("no machine with 100 descriptors")
    assert len(lines) >= 5
    for line in lines:
        assert "EMFILE" in line or "oo many open files" in line
        assert "\n" not in line


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and close() still works; a vCPU's thread that cannot start ends the machine."""
    start, allowed = threading.Thread.start, [0]

    def limited(thread: threading.Thread) -> None:
        if not allowed[0]:
            raise RuntimeError("can't start new thread")
        allowed[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with machine(DONE) as vm, pytest.raises(HostError, match="ulimit -u"):
        vm.start()
    for count in (1, 2):
        allowed[0] = count
        with machine(SPIN, smp=2) as vm:
            vm.start()
            stop = vm.wait(SECONDS)
        assert stop.kind == "error"
        assert "can't start new thread" in stop.text
