"""What the machine's VMBus offers: one row per kind of device, made anew with every board.

A row's function gets the machine and the new bus, offers what the machine was given of that kind,
and returns what the host side talks to (``board.offered[name]``), or None.
"""

from __future__ import annotations

from .endings import not_running
from .errors import ConfigError
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .ballooning import Ballooning
    from .machine import Machine
    from .services import Services
    from .vmbus.balloon import Balloon
    from .vmbus.hvsock import HvSockets
    from .vmbus.ic import Components
    from .vmbus.keyboard import SynthKeyboard
    from .vmbus.mouse import SynthMouse
    from .vmbus.netvsc import Netvsc
    from .vmbus.server import VmbusServer
    from .vmbus.storvsc import Scsi
    from .vmbus.video import SynthVideo


class Offer(Record):
    """A row: *make* offers on the bus what the machine has under *name*."""

    name: str
    make: Callable[[Machine, VmbusServer], object]


def _storage(machine: Machine, server: VmbusServer) -> Scsi | None:
    from .vmbus.storvsc import Scsi

    if not machine.luns:
        return None
    controller = Scsi(dict(machine.luns))
    server.offer(controller)
    return controller


def offer_controller(machine: Machine) -> None:
    """Offer the storage controller now: the machine's first drive came while it runs."""
    board = machine.board
    board.offered["storage"] = _storage(machine, board.vmbus)


def _network(machine: Machine, server: VmbusServer) -> list[Netvsc]:
    from .vmbus.netvsc import Netvsc

    cards = [Netvsc(nic, mac, number) for number, (nic, mac) in enumerate(machine.nics)]
    for card in cards:
        server.offer(card)
    return cards


def _components(machine: Machine, server: VmbusServer) -> Components:
    from .vmbus.ic import Components

    return Components(server)


def _keyboard(machine: Machine, server: VmbusServer) -> SynthKeyboard:
    from .vmbus.keyboard import SynthKeyboard

    keyboard = SynthKeyboard()
    server.offer(keyboard)
    return keyboard


def _sockets(machine: Machine, server: VmbusServer) -> HvSockets | None:
    return None if machine.sockets is None else machine.sockets.attach(server)


def _balloon(machine: Machine, server: VmbusServer) -> Balloon:
    from .vmbus.balloon import Balloon

    memory, add = machine.memory, server.synic.vm.add_memory
    balloon = Balloon(lambda size: memory.grow(size, add))
    server.offer(balloon)
    return balloon


def _screen(machine: Machine, server: VmbusServer) -> SynthVideo | None:
    if machine.config.vga == "none":
        return None
    from .boot.acpi import mmio_windows
    from .vmbus.video import VRAM_BYTES, SynthVideo
    from .vram import Vram

    vm = server.synic.vm  # the board's: machine.board is not there yet
    screen = SynthVideo(Vram(vm, VRAM_BYTES, mmio_windows(machine.memory)))
    server.offer(screen)
    return screen


def _mouse(machine: Machine, server: VmbusServer) -> SynthMouse | None:
    if machine.config.vga == "none":
        return None  # it points at pixels
    from .vmbus.mouse import SynthMouse

    mouse = SynthMouse()
    server.offer(mouse)
    return mouse


def _own(machine: Machine, server: VmbusServer) -> None:
    for device in machine.own_devices:
        server.offer(device)


#: in the order of the offers: Linux probes them so
OFFERS = (
    Offer("storage", _storage),
    Offer("network", _network),
    Offer("components", _components),
    Offer("keyboard", _keyboard),
    Offer("sockets", _sockets),
    Offer("balloon", _balloon),
    Offer("screen", _screen),
    Offer("mouse", _mouse),
    Offer("own", _own),
)


def reach(machine: Services | Ballooning, name: str, what: str) -> object:
    """Return what the row *name* made, for the call *what* of a running machine.

    :raises ConfigError: the machine does not run, or its guest has no VMBus.
    """
    board, reason = machine.board, not_running(machine)
    if board is None or reason is not None:
        raise ConfigError(f"{what}: {reason or 'the machine is between two lives'}")
    found = board.offered.get(name)
    if found is None:
        raise ConfigError(f"{what}: the guest has no VMBus; -cpu needs hv_synic for it")
    return found
