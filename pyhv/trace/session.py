"""``--trace``, ``--trace-format``, ``--trace-file`` and ``--top`` of one run."""

from __future__ import annotations

import os
import time

from ..errors import ConfigError, HostError
from . import writers
from .event import EXIT_CATEGORIES, Event, categories
from .ladder import LadderWriter
from .tracer import Tracer
from .writers import Top, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..machine import Machine

TOP_S = 1.0
#: --trace-format -> who writes it
FORMATS: dict[str, type[Writer]] = {**writers.FORMATS, "ladder": LadderWriter}


class TraceSession:
    """Traces *machine* from its start to :meth:`close`.

    :param wanted: the value of ``--trace``, None without it.
    :param form: a key of FORMATS. *path*: the file, None for stderr.
    :param top: show the histogram every second.
    :param say: prints a message for the user.
    :raises ConfigError: a category or a format that there is not.
    :raises HostError: the file cannot be made.
    """

    def __init__(
        self,
        machine: Machine,
        wanted: str | None,
        form: str,
        path: str | None,
        top: bool,
        say: Callable[[str], None],
    ) -> None:
        if form not in FORMATS:
            raise ConfigError(f"--trace-format {form}: pyhv has {', '.join(FORMATS)}")
        if path is not None and wanted is None:
            raise ConfigError("--trace-file: nothing is traced; add --trace exits")
        found = categories(wanted) if wanted is not None else frozenset()
        self._say, self._machine, self._wanted = say, machine, found
        self._fd = self._writer = self._top = None
        self._path = path
        sinks: list[Callable[[Event], None]] = []
        if wanted is not None:
            self._fd = 2 if path is None else _create(path)
            self._writer: Writer | None = FORMATS[form](self._fd, time.monotonic_ns(), say)
            sinks.append(self._writer)
        if top:
            self._top = Top()
            sinks.append(self._top)
            self._since = time.monotonic()
            machine.events.after(TOP_S, self._show)

        def emit(event: Event) -> None:
            for sink in sinks:
                sink(event)

        tracer = Tracer(
            found | EXIT_CATEGORIES if top else found, emit if len(sinks) > 1 else sinks[0]
        )
        machine.add_instrument(tracer.install)

    def _show(self) -> None:
        """Print the histogram; on the event loop, again and again."""
        seconds = max(time.monotonic() - self._since, 1e-3)
        self._since += seconds
        self._say("\n".join(self._top.lines(seconds)))
        if self._machine.events is not None:
            self._machine.events.after(TOP_S, self._show)

    def close(self) -> None:
        """Write the rest, and say where it is; the machine must have ended."""
        writer, self._writer = self._writer, None
        stop = self._machine.ended
        if writer is not None and "machine" in self._wanted and stop is not None:
            fields = {"kind": stop.kind, "status": stop.status, "text": stop.text}
            writer(Event(time.monotonic_ns(), -1, "machine", "end", fields))
        if writer is not None:
            writer.close()
        if self._path is not None and self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._say(f"{writer.count} events in {self._path}")


def _create(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise HostError(f"--trace-file {path}: {error.strerror}") from error
