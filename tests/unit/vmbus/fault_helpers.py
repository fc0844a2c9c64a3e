"""The rules of a simulated guest: what a machine's ``Faults`` is to a real one."""

from __future__ import annotations

from guest_sim import Guest

from pyhv.faults.bus import BusFaults
from pyhv.faults.rule import Fault


class Rules:
    """The rules of one simulated guest, as a machine's ``Faults`` keeps them."""

    def __init__(self, guest: Guest) -> None:
        self.rules: list[Fault] = []
        self.bus = BusFaults(guest.server, self.rules)

    def __call__(self, do: str, **options) -> Fault:
        rule = Fault(do, **options)
        rule.forget = self.forget
        self.rules.append(rule)
        self.bus.changed()
        if rule.on == "now":
            self.bus.now(rule)
        return rule

    def forget(self, rule: Fault) -> None:
        self.rules.remove(rule)
        self.bus.changed()
        for undo in rule.undo:
            undo()
