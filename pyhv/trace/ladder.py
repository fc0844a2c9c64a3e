"""The bus as a ladder in plain text: guest left, host right, an arrow a message or ring packet."""

from __future__ import annotations

import json
from _heapq import heappop, heappush

from .writers import Writer, fields_text, value_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from .event import Event

BUS = ("vmbus", "ring")
WIDTH = 84  # between the two
WINDOW = 256  # a packet is known after what was sent while it was served: sorted among so many
HIDDEN = frozenset((
    "from", "to", "relid", "class", "transaction", "message", "data", "before", "after",
))  # fmt: skip
HEAD = f"{'time, s':>11}  guest{'host':>{WIDTH - 3}}"
CHANNELS = 2048  # names kept


class Rung:
    """One message or packet: when, from whom, of which channel, its name and fields."""

    __slots__ = ("device", "fields", "guest", "name", "relid", "result", "time_ns")

    def __init__(
        self, time_ns: int, name: str, fields: dict[str, Any], result: object, device: str
    ) -> None:
        self.time_ns, self.fields, self.result, self.device = time_ns, fields, result, device
        self.guest, self.relid = "from" in fields, fields.get("relid", 0)
        said = fields.get("message")
        self.name = said if isinstance(said, str) else name
        for prefix in ("CHANNELMSG_", "VM_PKT_"):
            self.name = self.name.removeprefix(prefix)

    @property
    def text(self) -> str:
        """Channel, name, fields; a packet's transaction with a ``#``."""
        shown = {key: value for key, value in self.fields.items() if key not in HIDDEN}
        parts = [f"{self.device} {self.relid}"] if self.relid else []
        parts.append(self.name)
        transaction = self.fields.get("transaction")
        if isinstance(transaction, int):
            parts.append(f"#{transaction:x}")
        if shown:
            parts.append(fields_text(shown))
        if self.result not in (None, "HV_STATUS_SUCCESS"):
            parts.append(f"= {value_text(self.result)}")
        return " ".join(parts)

    @property
    def line(self) -> str:
        """The rung in text; a long one is longer than the ladder is wide."""
        text = "".join(c if c.isprintable() else "\ufffd" for c in self.text)
        dashes = "-" * (WIDTH - len(text) - 4)
        arrow = f"- {text} {dashes}>" if self.guest else f"<{dashes} {text} -"
        return f"{self.time_ns / 1e9:11.6f}  |{arrow}|"

    @property
    def json(self) -> str:
        """The rung as an object of JSON Lines."""
        return json.dumps({
            "time_ns": self.time_ns, "from": "guest" if self.guest else "host",
            "relid": self.relid, "device": self.device, "name": self.name,
            "fields": {k: v for k, v in self.fields.items() if k not in ("from", "to")},
            "result": self.result,
        })  # fmt: skip


FORMS: dict[str, Callable[[Rung], str]] = {
    "text": lambda rung: rung.line, "jsonl": lambda rung: rung.json,
}  # fmt: skip


class Ladder:
    """Puts rungs in the order of time; feed it with :meth:`add`, at the end call :meth:`rest`."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._heap: list[tuple[int, int, Rung]] = []
        self._count = 0

    def add(
        self, category: str, time_ns: int, name: str, fields: dict[str, Any], result: object
    ) -> Iterator[Rung]:
        """Take an event; yield the rungs that nothing earlier can come before."""
        relid = fields.get("relid")
        if category not in BUS or not isinstance(relid, (int, type(None))):
            return
        if "class" in fields and relid and len(self._names) < CHANNELS:
            self._names[relid] = str(fields["class"])[:36]
        rung = Rung(time_ns, name, fields, result, self._names.get(relid or 0, "channel"))
        self._count += 1
        heappush(self._heap, (time_ns, self._count, rung))
        while len(self._heap) > WINDOW:
            yield heappop(self._heap)[2]

    def rest(self) -> Iterator[Rung]:
        """Yield what is left."""
        while self._heap:
            yield heappop(self._heap)[2]


def of_lines(lines: Iterable[str]) -> Iterator[Rung]:
    """Yield the rungs of a trace in JSON Lines; what is no event is passed over."""
    ladder = Ladder()
    for line in lines:
        try:
            event = json.loads(line)
            when, fields = int(event["time_ns"]), dict(event["fields"])
            category, name = str(event["category"]), str(event["name"])
            result = event.get("result")
        except (ValueError, RecursionError, TypeError, KeyError, OverflowError, AttributeError):
            continue
        yield from ladder.add(category, when, name, fields, result)
    yield from ladder.rest()


class LadderWriter(Writer):
    """``--trace-format ladder``: a line a message, some late since they are sorted by time."""

    head = HEAD + "\n"

    def __init__(self, fd: int, zero_ns: int, say: Callable[[str], None]) -> None:
        super().__init__(fd, zero_ns, say)
        self._ladder = Ladder()

    def text(self, event: Event) -> str:
        found = self._ladder.add(
            event.category, event.time_ns - self._zero_ns, event.name, event.fields, event.result
        )
        return "".join(rung.line + "\n" for rung in found)

    def close(self) -> None:
        """Write the last ones, too."""
        self.foot = "".join(rung.line + "\n" for rung in self._ladder.rest())
        super().close()
