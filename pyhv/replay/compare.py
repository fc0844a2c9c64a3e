"""What the host said then beside what it says now, and every difference in words."""

from __future__ import annotations

from ..record import Record
from ..trace.writers import value_text
from ..vmbus import netvsc_protocol as n
from ..vmbus import protocol as p
from ..vmbus.storvsc import SRB_SUCCESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Fields = dict[str, Any]

KEPT = 1000
#: class -> bytes of its packets that are another time's: with the ring's and the IC's header
VOLATILE = {"timesync": (16 + 28, 16 + 28 + 24)}
SKIPPED = ("data", "before", "from", "to")


class Difference(Record):
    """*what* in words; *time_ns* in the trace's time."""

    time_ns: int
    what: str

    def __str__(self) -> str:
        return f"{self.time_ns / 1e9:.6f} s: {self.what}"


class Said(Record):
    """One thing that the host said or did."""

    time_ns: int
    name: str
    fields: dict[str, Any]
    result: object

    @property
    def title(self) -> str:
        """What it is, for people."""
        fields, number = self.fields, self.fields.get("transaction")
        parts = [
            f"{fields['class']} {fields.get('relid')}" if "class" in fields else "",
            str(fields.get("message") or self.name).removeprefix("CHANNELMSG_"),
            f"#{number:x}" if isinstance(number, int) else "", str(fields.get("cdb", "")),
        ]  # fmt: skip
        return " ".join(part for part in parts if part)


class Comparison:
    """Two sides of streams; within one the order counts, between them it does not."""

    def __init__(self) -> None:
        self._then: dict[object, list[Said]] = {}
        self._now: dict[object, list[Said]] = {}
        self.differences: list[Difference] = []
        self.count = self.compared = 0

    def then(self, stream: object, said: Said) -> None:
        """Note what the trace has."""
        self._then.setdefault(stream, []).append(said)

    def now(self, stream: object, said: Said) -> None:
        """Note what is said now."""
        self._now.setdefault(stream, []).append(said)

    def differ(self, time_ns: int, what: str) -> None:
        """Note a difference."""
        self.count += 1
        if len(self.differences) < KEPT:
            self.differences.append(Difference(time_ns, what))

    def settle(self) -> None:
        """Compare what is there, and forget it: a life of the machine is over."""
        for stream in [*self._then, *(one for one in self._now if one not in self._then)]:
            then, now = self._then.get(stream, []), self._now.get(stream, [])
            for at, (old, new) in enumerate(zip(then, now, strict=False)):
                if self._failed(stream, at):
                    continue
                self.compared += 1
                for what in differences(old, new):
                    self.differ(old.time_ns, f"{old.title}: {what}")
            for old in then[len(now) :]:
                self.differ(old.time_ns, f"{old.title}: is missing")
            for new in now[len(then) :]:
                self.differ(new.time_ns, f"{new.title}: was not there")
        self._then.clear()
        self._now.clear()
        self.differences.sort()


    def _failed(self, stream: object, at: int) -> bool:
        """Tell whether this is what a failed request left in memory: what lay there before."""
        if not isinstance(stream, tuple) or stream[1] != "after":
            return False
        done = self._then.get((stream[0], "completion", stream[2]), [])
        return at < len(done) and done[at].fields.get("srb_status", SRB_SUCCESS) != SRB_SUCCESS


def differences(then: Said, now: Said) -> list[str]:
    """Return what is different, field by field; the bytes if nothing else is."""
    found = []
    if then.name != now.name:
        return [f"is {now.name.removeprefix('CHANNELMSG_')}"]
    for name in [*then.fields, *(one for one in now.fields if one not in then.fields)]:
        if name in SKIPPED:
            continue
        old, new = then.fields.get(name), now.fields.get(name)
        if old != new:
            title = "what it leaves in memory" if name == "after" else name
            found.append(f"{title} is {_shown(new)}, was {_shown(old)}")
    if then.result != now.result:
        found.append(f"the result is {now.result}, was {then.result}")
    return found or _bytes(then, now)


def _bytes(then: Said, now: Said) -> list[str]:
    old, new = (bytes.fromhex(one.fields.get("data", "")) for one in (then, now))
    if len(old) != len(new):
        return [f"has {len(new)} bytes, had {len(old)}"]
    first, last = VOLATILE.get(str(then.fields.get("class")), (0, 0))
    for at, (a, b) in enumerate(zip(old, new, strict=True)):
        if a != b and not first <= at < last:
            return [f"byte {at} is {b:#04x}, was {a:#04x}"]
    return []


def _shown(value: object) -> str:
    return "not there" if value is None else value_text(value)


def stream(name: str, fields: Fields) -> object:
    """Return which stream something is of: messages; a channel's packets; one completion."""
    relid = fields.get("relid")
    if name.startswith(("CHANNELMSG_", "channel message")):
        return "messages"
    if "from" in fields:
        return relid, "after", fields.get("transaction")
    if name == "VM_PKT_COMP":
        return relid, "completion", fields.get("transaction")
    return relid, "packets"


def is_medium(fields: Fields) -> bool:
    """Tell whether a request reads the disk's own data."""
    return fields.get("cdb") in ("READ_6", "READ_10", "READ_12", "READ_16")


def is_frame(fields: Fields) -> bool:
    """Tell whether a packet of the host brings a frame of the network: nobody sends it here."""
    data = bytes.fromhex(fields.get("data", ""))
    kind = int.from_bytes(data[:2], "little")
    if fields.get("class") != "net" or kind != p.VM_PKT_DATA_USING_XFER_PAGES:
        return False
    message = int.from_bytes(data[2:4], "little") * 8
    return data[message + 4 : message + 8] == n.RNDIS_CHANNEL_DATA.to_bytes(4, "little")
