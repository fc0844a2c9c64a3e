"""What a host asks of a guest's hv_utils: power off, restart, are you alive, take my time.

The guest's side is any Hyper-V guest's driver (Linux: hv_utils), so no agent is needed. The
protocols are in vmbus/ic.py; a board offers one set, and a reset makes a new one.
"""

from __future__ import annotations

import threading
import time

from .errors import ConfigError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .board import Board
    from .stop import Stop
    from .vmbus.ic import Components, Service, Told

ANSWER_S = 10.0
BUSY_S = 0.02  # before a driver that has not answered the last request is asked again
BUSY = -1


class Services:
    """The part of Machine that asks the guest; any thread but the event loop's may call."""

    board: Board | None
    call: Callable[[Callable[[], None]], None]
    ended: Stop | None
    started: bool

    def _components(self, what: str) -> Components:
        from .offers import reach

        return reach(self, "components", what)  # type: ignore[return-value]

    @property
    def heartbeat(self) -> float | None:
        """Seconds since the guest's driver last answered; it is asked every 2. None: no driver."""
        last = self._components("heartbeat").heartbeat.last_answer
        return None if last is None else time.monotonic() - last

    def shutdown(
        self, *, restart: bool = False, hibernate: bool = False, force: bool = False,
        text: str = "", timeout: float = ANSWER_S,
    ) -> None:
        """Ask the guest to power off, restart or hibernate; return when it has said that it will.

        :param hibernate: Linux refuses: to sleep as S4 the machine's ACPI would have to have it.
        :param force: also when somebody is logged in; Linux makes no difference.
        :param text: a reason for the guest's log.
        :param timeout: seconds to wait for the answer, not for the end: that is ``wait()``.
        :raises ConfigError: the machine does not run, or its guest has no driver for this.
        :raises HostError: the guest refused, or has not answered in time.
        """
        what = "restart" if restart else "hibernate" if hibernate else "shutdown"
        component = self._components(what).shutdown
        status, _ = self._ask(
            what, component, lambda told: component.request(
                reboot=restart, hibernate=hibernate, force=force, text=text, told=told
            ), timeout,
        )  # fmt: skip
        if status:  # HV_S_OK is 0
            raise HostError(f"{what}: the guest refused, status {status:#x}")

    def set_time(self, timeout: float = ANSWER_S) -> None:
        """Set the guest's clock to the host's now, however wrong it is.

        :raises ConfigError, HostError: as :meth:`shutdown`.
        """
        component = self._components("set_time").timesync
        self._ask("set_time", component, component.sync, timeout)

    def _ask(
        self, what: str, service: Service, ask: Callable[[Told], bool], timeout: float
    ) -> tuple[int, bytes]:
        """Do *ask* on the event loop; return the status and the body that it is told there."""
        deadline = time.monotonic() + timeout
        while True:
            status, data = self._ask_once(what, service, ask, deadline, timeout)
            if status is None:
                raise ConfigError(
                    f"{what}: the guest has no driver for it now (Linux: {service.guest_side})"
                )
            if status != BUSY:
                return status, data
            if time.monotonic() >= deadline:
                raise HostError(
                    f"{what}: the guest's driver has not answered the request before in "
                    f"{timeout:.3g} s"
                )
            time.sleep(BUSY_S)

    def _ask_once(
        self, what: str, service: Service, ask: Callable[[Told], bool], deadline: float,
        timeout: float,
    ) -> tuple[int | None, bytes]:  # fmt: skip
        answered = threading.Event()
        answers: list[tuple[int | None, bytes]] = []

        def told(status: int | None, data: bytes) -> None:
            answers.append((status, data))
            answered.set()

        def call() -> None:
            if not ask(told):
                told(BUSY if service.busy else None, b"")

        self.call(call)
        if not answered.wait(max(0.0, deadline - time.monotonic())):
            raise HostError(
                f"{what}: the guest's driver has not answered in {timeout:.3g} s (Linux: "
                f"{service.guest_side})"
            )
        return answers[0]
