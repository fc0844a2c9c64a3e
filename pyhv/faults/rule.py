"""What a rule can say: the actions, what each needs, and which message or packet it is about."""

from __future__ import annotations

import threading

from ..errors import ConfigError
from ..record import Record
from ..trace.names import CLASS_NAMES
from ..vmbus import protocol as p
from ..vmbus.device import Device

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


#: channel messages by their names without CHANNELMSG_
MESSAGES = {
    name.removeprefix("CHANNELMSG_"): value
    for name, value in vars(p).items()
    if name.startswith("CHANNELMSG_")
}
#: a channel's ring packets, the guest's and the host's; NOW: as soon as the rule is there
PACKET, ANSWER, NOW = "packet", "answer", "now"
#: where a message has the relid of its channel
RELID_AT = {
    "OFFERCHANNEL": 184,
    **dict.fromkeys(
        ("RESCIND_CHANNELOFFER", "OPENCHANNEL", "OPENCHANNEL_RESULT", "CLOSECHANNEL",
         "GPADL_HEADER", "GPADL_CREATED", "GPADL_TEARDOWN", "RELID_RELEASED", "MODIFYCHANNEL",
         "MODIFYCHANNEL_RESPONSE"), 8,
    ),
}  # fmt: skip
#: where a message to the guest has its status
STATUS_AT = {"OPENCHANNEL_RESULT": 16, "GPADL_CREATED": 16, "MODIFYCHANNEL_RESPONSE": 12}
STATES = (NOW, PACKET, ANSWER, *RELID_AT)
ANY = (PACKET, ANSWER, *MESSAGES)
CLASSES = {name: guid for guid, name in CLASS_NAMES.items()}
ALIASES = {"storage": "scsi", "network": "net"}
HITS_KEPT = 4096


class Action(Record):
    """A row: what it does, what it can be *on* (the first if not said), what it needs, may have."""

    what: str
    on: tuple[str, ...]
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


ACTIONS = {
    "drop": Action("it goes lost", ANY),
    "delay": Action("it comes *seconds* later; what follows is not held up", ANY, ("seconds",)),
    "status": Action(
        "the guest sees *status* (SCSI: the SRB's) or *scsi_status*; to a message the host then "
        "keeps: a channel is not open, a GPADL not kept",
        (ANSWER, *STATUS_AT), (), ("status", "scsi_status"),
    ),
    "change": Action(
        "the guest sees ``change(data)``, bytes of the same length", (ANSWER, *MESSAGES),
        ("change",),
    ),
    "version": Action(
        "the bus agrees to *version*, such as \"4.0\", and below", ("INITIATE_CONTACT",),
        ("version",),
    ),
    "rescind": Action(
        "the device is taken away, with what it was on, and offered again after *seconds*", STATES,
        (), ("seconds",),
    ),
    "fill": Action(
        "the host leaves what comes next in the device's rings for *seconds*: the guest fills them",
        STATES, (), ("seconds",),
    ),
    "link": Action(
        "a network card's link is down for *seconds*", STATES, (), ("seconds",),
    ),
}  # fmt: skip


class Hit(Record):
    """A time that a rule was done: CLOCK_MONOTONIC, on what, its fields as a trace has them."""

    time_ns: int
    name: str
    relid: int
    fields: dict[str, object]


class Fault:
    """A rule in force; ``with`` removes it at the end. ``hits``: what it was done to, in order.

    Made by ``vm.fault(...)``, whose parameters these are.
    """

    def __init__(
        self, do: str, on: str | None = None, device: object = None, after: int = 0,
        count: int | None = None, seconds: float | None = None, status: int | None = None,
        scsi_status: int | None = None, version: str | None = None,
        change: Callable[[bytes], bytes] | None = None, **match: object,
    ) -> None:  # fmt: skip
        action = ACTIONS.get(do)
        if action is None:
            raise ConfigError(f"fault {do}: pyhv has {', '.join(ACTIONS)}")
        self.do, self.on, self.device = do, on or action.on[0], device
        self.after, self.count, self.seconds = after, count, seconds
        self.status, self.scsi_status, self.change, self.match = (
            status, scsi_status, change, match,
        )  # fmt: skip
        self.version = version
        self.hits: list[Hit] = []
        self.seen = self.done = 0
        self.undo: list[Callable[[], None]] = []  # what its end has to bring back
        self._changed = threading.Condition()
        self.forget: Callable[[Fault], None] = _nothing
        _check(self, action)

    def __repr__(self) -> str:
        return f"<fault {self.do} on {self.on}, device {self.device}: done {self.done} times>"

    def remove(self) -> None:
        """End it: a link comes up, rings are served, a device is offered again.

        What it delayed still comes.
        """
        self.forget(self)

    def __enter__(self) -> Fault:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def wait(self, times: int = 1, timeout: float = 60.0) -> None:
        """Return when it was done *times* times. :raises TimeoutError: it was not."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.done >= times, timeout):
                raise TimeoutError(f"{self} after {timeout:g} s, not {times}")

    # for the bus

    def due(self) -> bool:
        """Count one more that it fits; tell whether it is to be done to this."""
        self.seen += 1
        most = 1 if self.on == NOW and self.count is None else self.count
        return self.seen > self.after and (most is None or self.seen <= self.after + most)

    def hit(self, hit: Hit) -> None:
        """Note that it was done."""
        with self._changed:
            self.done += 1
            if len(self.hits) < HITS_KEPT:
                self.hits.append(hit)
            self._changed.notify_all()

    def of(self, device: Device) -> bool:
        """Tell whether it is about *device*."""
        wanted = self.device
        if wanted is None or wanted is device:
            return True
        if isinstance(wanted, type):
            return isinstance(device, wanted)
        if not isinstance(wanted, str):
            return False
        if wanted in (device.class_guid, device.instance_guid):
            return True
        name, number = split(wanted)
        if CLASSES.get(name) != device.class_guid:
            return False
        # controllers and cards of a machine have their number at the end of their GUID
        return number is None or int(device.instance_guid[-4:], 16) == number

    def fits(self, fields: dict[str, object]) -> bool:
        """Tell whether *fields* are those it asks for: equal, or one of several."""
        for name, wanted in self.match.items():
            value = fields.get(name)
            if value != wanted and not (
                isinstance(wanted, (tuple, list, set, frozenset, range)) and value in wanted
            ):
                return False
        return True


def split(name: str) -> tuple[str, int | None]:
    """Return the class's name and the number of ``net1``; the number None without one."""
    stem = name.rstrip("0123456789")
    return ALIASES.get(stem, stem), int(name[len(stem) :]) if len(stem) < len(name) else None


def _check(rule: Fault, action: Action) -> None:
    """:raises ConfigError: a rule that nothing can fit, or that cannot be done."""
    what = f"fault {rule.do}"
    if rule.on not in action.on:
        raise ConfigError(f"{what} on {rule.on}: it can be on {', '.join(action.on)}")
    for name in ("seconds", "status", "scsi_status", "version", "change"):
        given = getattr(rule, name) is not None
        if given and name not in action.needs + action.may:
            raise ConfigError(f"{what}: it has no {name}; that is {action.what}")
        if name in action.needs and not given:
            raise ConfigError(f"{what}: {name} is missing; that is {action.what}")
    if rule.do == "status" and rule.status is None and rule.scsi_status is None:
        raise ConfigError(f"{what}: status or scsi_status is missing")
    if rule.version is not None and rule.version not in p.VERSIONS:
        raise ConfigError(f"{what} {rule.version}: VMBus has {', '.join(p.VERSIONS)}")
    if rule.after < 0 or (rule.seconds or 0) < 0 or (rule.count is not None and rule.count < 1):
        raise ConfigError(f"{what}: seconds and after are 0 or more, count is 1 or more")
    device = rule.device
    if rule.on == NOW and (device is None or rule.match or rule.after):
        raise ConfigError(f"{what} now: it needs a device, and nothing that it waits for")
    if device is not None and rule.on in MESSAGES and rule.on not in RELID_AT:
        raise ConfigError(f"{what} on {rule.on}: that message is of no device")
    if isinstance(device, str) and "-" not in device and split(device)[0] not in CLASSES:
        names = ", ".join([*ALIASES, *CLASSES])
        raise ConfigError(f"{what}, device {device}: pyhv has {names}, and GUIDs")
    if isinstance(device, type) and not issubclass(device, Device):
        raise ConfigError(f"{what}, device {device.__name__}: not a Device")


def _nothing(fault: Fault) -> None:
    pass
