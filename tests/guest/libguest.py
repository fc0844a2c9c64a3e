"""What tests of whole machines share: one line to make one, deadlines, and what to count."""

from __future__ import annotations

import gc
import os
import threading

import guestcode
from guestcode import RESULTS

from pyhv import Machine, PyhvError
from pyhv.kvm.system import Kvm
from pyhv.stop import Stop

#: For loops that can only be longer: 1 is what the issue promises; here, a fifth of it.
SCALE = float(os.environ.get("PYHV_SCALE", "0.2"))
#: How much more memory the process may have after a run; the RAM of the guest counts as long.
GROWTH_KIB = 4096
#: Deadlines are for hangs, not for speed: this machine may be loaded.
SECONDS = 60


def descriptors() -> dict[str, str]:
    """Return this process's open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one listdir used
    return found


def rss_kib() -> int:
    """Return the resident set of this process, after a collection."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def drivers() -> list[str]:
    """Return the values of ``hyperv=`` that this host can run."""
    try:
        kvm = Kvm()
    except PyhvError:
        return ["user"]
    found = ["user", "kernel"] if kvm.has_hyperv() else ["user"]
    kvm.close()
    return found


def in_nested_host() -> bool:
    """Tell whether this is tests/host/nested's machine: its clock, for one, may be changed."""
    with open("/proc/cmdline") as file:
        return "pyhv.work=" in file.read()


def machine(body: str, **options: object) -> Machine:
    """Return a machine that runs *body*."""
    return Machine(**({"kernel": guestcode.sector(body), "cpu": "host", "memory": "2M"} | options))


#: which driver :func:`run` uses; the fixture ``driver`` sets it
chosen = {"driver": "auto"}


def run(path: str, **options: object) -> tuple[Stop, list[int], Machine]:
    """Run a guest to its end; return why, and what it left at RESULTS."""
    options = {"cpu": None, "memory": "16M", "hyperv": chosen["driver"]} | options
    before = rss_kib()
    with Machine(kernel=path, **options) as vm:
        # the loop, the vCPUs, four synthetic timers each and one for AutoEOI
        threads = threading.active_count() + 1 + 6 * len(vm.board.vcpus)
        vm.start()
        stop = vm.wait(10 * SECONDS)
        assert threading.active_count() <= threads
        found = [vm.memory.read_u64(RESULTS + 8 * i) for i in range(8)]
    assert rss_kib() - before < GROWTH_KIB
    return stop, found, vm
