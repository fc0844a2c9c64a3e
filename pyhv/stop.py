"""Why a machine ended: what ``Machine.wait`` returns and the report is made from."""

from __future__ import annotations

from _operator import itemgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Stop(NamedTuple):
        """One ending; the fields are those of the class below."""

        kind: str
        status: int
        text: str
        details: dict[str, object]

else:

    class Stop(tuple):
        """One ending. A NamedTuple in all but the import of typing, which costs 10 ms.

        ``kind``: poweroff, reset, exit, triple-fault, kvm-error, hv-crash, stuck, no-boot, quit,
        time-limit or error. ``status``: the exit status of the command line. ``text``: one line
        for people. ``details``: what the report shows beyond it; keys depend on the kind.
        """

        __slots__ = ()
        _fields = ("kind", "status", "text", "details")

        def __new__(cls, kind, status, text, details=None):
            return tuple.__new__(cls, (kind, status, text, {} if details is None else details))

        kind, status, text, details = (property(itemgetter(i)) for i in range(4))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            return "Stop(kind={!r}, status={!r}, text={!r}, details={!r})".format(*self)
