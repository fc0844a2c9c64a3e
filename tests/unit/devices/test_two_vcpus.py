"""Several vCPUs on one device at once: whatever they do, nothing may be raised."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyhv.devices import cf9, cmos, fwcfg, pcihole, pm, uart
from pyhv.memory import GuestMemory

THREADS, ACCESSES = 3, 4000


def _nothing(*arguments: object) -> None:
    """Stand for every line and action."""


def _cmos() -> cmos.Cmos:
    memory = GuestMemory(1 << 20)
    chip = cmos.Cmos(memory, 2, _nothing, _nothing)
    memory.close()
    return chip


DEVICES: dict[str, tuple[Callable[[], Any], int]] = {
    "uart": (lambda: uart.Uart(_nothing, _nothing), uart.PORTS),
    "pm": (lambda: pm.Pm(_nothing, _nothing), pm.PORTS),
    "cmos": (_cmos, cmos.PORTS),
    "fwcfg": (lambda: fwcfg.FwCfg(2, 1 << 20), fwcfg.PORTS),
    "pcihole": (lambda: pcihole.PciHole(cf9.ResetControl(_nothing)), pcihole.PORTS),
}


@pytest.fixture
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_switch_often")
@pytest.mark.parametrize("name", DEVICES)
def test_random_accesses_from_several_threads(name: str) -> None:
    make, ports = DEVICES[name]
    device = make()
    errors: list[BaseException] = []

    def vcpu(seed: int) -> None:
        noise = random.Random(seed)
        try:
            for _ in range(ACCESSES):
                size = noise.choice((1, 1, 1, 2, 4))
                offset = noise.randrange(max(ports - size, 0) + 1)
                if offset + size > ports:
                    continue
                device.pio_out(offset, size, noise.getrandbits(8 * size))
                assert 0 <= device.pio_in(offset, size) < 1 << 8 * size
                if name == "uart":
                    device.receive(b"x")
                    device.transmit(noise.randbytes(20))
        except BaseException as error:  # told below, by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=vcpu, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
