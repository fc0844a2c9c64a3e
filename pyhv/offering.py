"""VMBus devices of the caller's own on a machine's bus, in this life of it and the next ones."""

from __future__ import annotations

from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from .board import Board
    from .control import Control
    from .vmbus.device import Device

    AnyDevice = TypeVar("AnyDevice", bound=Device)

PATIENCE_S = 10.0


class Offering:
    """The part of Machine that takes them; any thread may call."""

    board: Board | None
    control: Control
    own_devices: list[Device] | tuple[()] = ()

    def offer(self, device: AnyDevice) -> AnyDevice:
        """Put *device* on the bus: at once, in a machine that runs, too; return it.

        After a reset or :meth:`restore` the same object is offered again, as a new device is. A
        device without ``instance_guid`` gets one. What it raises ends the machine, but for
        BrokenRule, which closes the channel.

        :raises ConfigError: no class GUID, it is on a bus already, or the machine has no VMBus or
            has stopped.
        """
        if not device.class_guid:
            raise ConfigError(f"offer {type(device).__name__}: it has no class_guid")
        if device.server is not None:
            raise ConfigError(f"offer {type(device).__name__}: it is on a bus already")
        self.control.on_loop(lambda: self._offer(device), PATIENCE_S, "offer")
        return device

    def withdraw(self, device: Device) -> None:
        """Take a device off that :meth:`offer` put there; the guest's driver is unbound.

        :raises ConfigError: it was not offered so, or the machine has stopped.
        """
        if device not in self.own_devices:
            raise ConfigError(f"withdraw {type(device).__name__}: it was not offered here")
        self.control.on_loop(lambda: self._withdraw(device), PATIENCE_S, "withdraw")

    def _offer(self, device: Device) -> None:
        if self.board is None or self.board.vmbus is None:
            raise ConfigError("offer: the guest has no VMBus; -cpu needs hv_synic for it")
        if not self.own_devices:
            self.own_devices = []
        if not device.instance_guid:
            device.instance_guid = f"0de71ce0-0000-4000-8000-{len(self.own_devices):012x}"
        self.board.vmbus.offer(device)
        self.own_devices.append(device)  # type: ignore[union-attr]

    def _withdraw(self, device: Device) -> None:
        self.own_devices.remove(device)  # type: ignore[union-attr]
        if device.server is not None:
            device.server.rescind(device)
