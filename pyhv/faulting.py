"""Faults that a test makes on the bus, and devices that it puts there: pyhv/faults/, when used."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .faults.machine import Faults
    from .faults.rule import Fault


class Faulting:
    """The part of Machine that spoils VMBus on purpose; any thread may call."""

    _faults: Faults | None = None

    @property
    def faults(self) -> Faults:
        """The rules in force; ``faults.clear()`` ends them all."""
        if self._faults is None:
            from .faults.machine import Faults

            self._faults = Faults(self)  # type: ignore[arg-type]
        return self._faults

    def fault(self, do: str, **options: object) -> Fault:
        """Have *do* done to what the guest and the host say on VMBus, from now on.

        ::

            with vm.fault("status", device="scsi", cdb="READ_10", status=4, count=1) as rule:
                ...
            assert rule.hits

        :param do: "drop", "delay", "status", "change", "version", "rescind", "fill", "link"; what
            each does and needs: docs/bus.md, or ACTIONS in pyhv/faults/rule.py.
        :param on: a channel message such as "GPADL_CREATED"; "packet", the guest's in a ring;
            "answer", the host's; "now". What is left out is the action's first.
        :param device: a class ("scsi", "net", "net1", "keyboard"), a GUID, a Device or its class;
            without it all.
        :param after: so many pass first. *count*: then so many are done, None: all.
        :param options: what the action needs (``seconds``, ``status``, ``version``, ``change``);
            others ask for fields as a trace shows them: ``cdb="READ_10"``, ``lba=range(8)``.
        :raises ConfigError: such a rule cannot be, or the machine has no VMBus or has stopped.
        """
        return self.faults.add(do, **options)
