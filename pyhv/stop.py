"""Why a machine ended: what ``Machine.wait`` returns and the report is made from."""

from __future__ import annotations

from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .reasons import Reason


class Stop(Record):
    """One ending.

    ``kind``: poweroff, reset, exit, triple-fault, kvm-error, hv-crash, stuck, no-boot, quit,
    time-limit or error. ``status``: the exit status of the command line. ``text``: one line for
    people. ``details``: what the report shows beyond it; the keys depend on the kind.
    """

    kind: str
    status: int
    text: str
    details: dict[str, object]

    @property
    def reason(self) -> Reason:
        """``kind`` as an enumeration: ``stop.reason is Reason.POWER_OFF``."""
        from .reasons import Reason

        return Reason(self.kind)
