"""``vm.fault(...)``: rules of one machine, which outlive its resets."""

from __future__ import annotations

from _weakref import ref

from ..errors import ConfigError
from .bus import BusFaults
from .rule import NOW, Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..board import Board
    from ..machine import Machine

PATIENCE_S = 10.0


class Faults:
    """The rules of a machine, in the order in which they were made; iterable.

    A reset and a restore make a new bus: the rules go on there with their counts as they stand,
    what was delayed is lost with the old bus, and what is done ``now`` is not done again: all
    devices are there, only a link that is down stays so. A snapshot has no rules: a machine cloned
    from one begins without.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = ref(machine)  # which refers to this: no collector shall be needed
        self._rules: list[Fault] = []
        self._bus: BusFaults | None = None
        machine.instruments.append(self._board)
        if machine.board is not None:
            self._board(machine.board)

    def __iter__(self):
        return iter(list(self._rules))

    def __len__(self) -> int:
        return len(self._rules)

    def add(self, do: str, **options: object) -> Fault:
        """Make a rule; see ``Machine.fault``."""
        rule = Fault(do, **options)  # type: ignore[arg-type]
        rule.forget = self._remove
        self._on_loop(lambda: self._add(rule))
        return rule

    def clear(self) -> None:
        """Remove all rules."""
        for rule in self:
            rule.remove()

    def _on_loop(self, function) -> None:
        machine = self._machine()
        if machine is None:
            raise ConfigError("fault: this machine is closed")
        machine.control.on_loop(function, PATIENCE_S, "fault")

    def _board(self, board: Board) -> None:
        """A new life: its bus gets the rules."""
        self._bus = BusFaults(board.vmbus, self._rules) if board.vmbus is not None else None

    def _add(self, rule: Fault) -> None:
        if self._bus is None:
            raise ConfigError("fault: the guest has no VMBus; -cpu needs hv_synic for it")
        self._rules.append(rule)
        self._bus.changed()
        if rule.on == NOW:
            self._bus.now(rule)

    def _remove(self, rule: Fault) -> None:
        machine = self._machine()
        if machine is None or machine.ended or machine.events is None:
            return  # nothing is left that it could be done to
        try:
            self._on_loop(lambda: self._forget(rule))
        except ConfigError:
            pass  # it ended just now

    def _forget(self, rule: Fault) -> None:
        if rule not in self._rules:
            return
        self._rules.remove(rule)
        if self._bus is not None:
            self._bus.changed()
        undo, rule.undo = rule.undo, []
        for function in undo:
            function()
