"""Where events go: text in the manner of strace, JSON Lines, Chrome's trace format, a histogram.

Every writer takes events from any thread, and what it writes is bounded by the events alone. A
file that cannot be written any more ends the trace with one line, not the machine.
"""

from __future__ import annotations

import json
import os
import threading

from .event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FLUSH_BYTES = 1 << 16


def value_text(value: object) -> str:
    """Return a value as the text format shows it: small numbers decimal, others hexadecimal."""
    if isinstance(value, bool) or not isinstance(value, int):
        return "{" + fields_text(value) + "}" if isinstance(value, dict) else str(value)
    return str(value) if 0 <= value < 10 else f"{value:#x}"


def fields_text(fields: dict[str, object]) -> str:
    """Return ``name=value, name=value``; a field ``msr`` or ``decoded`` shows its value alone."""
    return ", ".join(
        value_text(value) if name in ("msr", "decoded") else f"{name}={value_text(value)}"
        for name, value in fields.items()
    )


def line(event: Event, zero_ns: int) -> str:
    """Return an event in the manner of strace: time, who, what with its fields, result, duration.

    :param zero_ns: the CLOCK_MONOTONIC that is shown as 0.
    """
    who = f"cpu{event.vcpu}" if event.vcpu >= 0 else "host"
    text = f"{(event.time_ns - zero_ns) / 1e9:11.6f} {who:5} {event.name}"
    text += f"({fields_text(event.fields)})"
    if event.result is not None:
        text += f" = {value_text(event.result)}"
    if event.duration_ns >= 0:
        text += f" <{event.duration_ns / 1e9:.6f}>"
    return text


class Writer:
    """Collects text and writes it to *fd* in large pieces; :meth:`close` writes the rest."""

    head, foot = "", ""

    def __init__(self, fd: int, zero_ns: int, say: Callable[[str], None]) -> None:
        self._fd, self._zero_ns, self._say = fd, zero_ns, say
        self._lock = threading.Lock()
        self._parts: list[str] = [self.head] if self.head else []
        self._size, self._failed = 0, False
        self.immediate = os.isatty(fd)
        self.count = 0

    def text(self, event: Event) -> str:
        """Return what *event* is in this format."""
        raise NotImplementedError

    def __call__(self, event: Event) -> None:
        text = self.text(event)
        with self._lock:
            self.count += 1
            self._parts.append(text)
            self._size += len(text)
            if self.immediate or self._size >= FLUSH_BYTES:
                self._flush()

    def _flush(self) -> None:
        data = memoryview("".join(self._parts).encode(errors="backslashreplace"))
        self._parts.clear()
        self._size = 0
        try:
            while data and not self._failed:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            self._failed = True
            self._say(f"the trace ends here: write: {error.strerror}")

    def close(self) -> None:
        """Write what is left; the descriptor stays open."""
        with self._lock:
            if self.foot:
                self._parts.append(self.foot)
            self._flush()


class TextWriter(Writer):
    """A line an event, see :func:`line`."""

    def text(self, event: Event) -> str:
        return line(event, self._zero_ns) + "\n"


class JsonLinesWriter(Writer):
    """A JSON object an event; times in ns, ``time_ns`` from the start of the trace."""

    def text(self, event: Event) -> str:
        found = event._asdict() | {"time_ns": event.time_ns - self._zero_ns}
        if event.duration_ns < 0:
            del found["duration_ns"]
        return json.dumps(found) + "\n"


class ChromeWriter(Writer):
    """The Trace Event format that chrome://tracing and Perfetto open: a track for each vCPU."""

    head = (
        '{"displayTimeUnit": "ns", "traceEvents": [\n'
        '{"ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": {"name": "pyhv"}}'
    )
    foot = "\n]}\n"

    def __init__(self, fd: int, zero_ns: int, say: Callable[[str], None]) -> None:
        super().__init__(fd, zero_ns, say)
        self._seen: set[int] = set()

    def text(self, event: Event) -> str:
        track = event.vcpu + 1 if event.vcpu >= 0 else 1000
        found: list[dict[str, object]] = []
        if track not in self._seen:
            self._seen.add(track)
            name = f"vCPU {event.vcpu}" if event.vcpu >= 0 else "pyhv"
            found.append({"ph": "M", "pid": 1, "tid": track, "name": "thread_name",
                          "args": {"name": name}})  # fmt: skip
        arguments = dict(event.fields)
        if event.result is not None:
            arguments["result"] = event.result
        one: dict[str, object] = {
            "pid": 1, "tid": track, "cat": event.category, "name": self._title(event),
            "ts": (event.time_ns - self._zero_ns) / 1000, "args": arguments,
        }  # fmt: skip
        if event.duration_ns >= 0:
            one |= {"ph": "X", "dur": event.duration_ns / 1000}
        else:
            one |= {"ph": "i", "s": "t"}
        found.append(one)
        return "".join(",\n" + json.dumps(item) for item in found)

    @staticmethod
    def _title(event: Event) -> str:
        extra = event.fields.get("msr") or event.fields.get("device")
        return f"{event.name} {extra}" if extra and extra != "-" else event.name


FORMATS: dict[str, type[Writer]] = {
    "text": TextWriter, "jsonl": JsonLinesWriter, "chrome": ChromeWriter,
}  # fmt: skip


class Top:
    """Counts events by what they are; :meth:`lines` is the histogram since the last call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {}

    def __call__(self, event: Event) -> None:
        what = event.fields.get("msr") or event.fields.get("device") or ""
        key = f"{event.name} {what}".strip()
        with self._lock:
            found = self._counts.get(key)
            if found is None:
                found = self._counts.setdefault(key, [0, 0])
            found[0] += 1
            found[1] += max(event.duration_ns, 0)

    def lines(self, seconds: float, rows: int = 15) -> list[str]:
        """Return a headline and the *rows* most frequent ones of the last *seconds*."""
        with self._lock:
            counts, self._counts = self._counts, {}
        total = sum(count for count, _ in counts.values())
        found = [f"{total / seconds:10.0f}/s  {'mean us':>8}  in pyhv  what"]
        ranked = sorted(counts.items(), key=lambda item: -item[1][0])
        for name, (count, ns) in ranked[:rows]:
            share = ns / seconds / 1e7
            found.append(
                f"{count / seconds:10.0f}    {ns / count / 1000:8.1f}  {share:5.1f} %  {name}"
            )
        return found
