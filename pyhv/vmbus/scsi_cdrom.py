"""A DVD drive as a SCSI logical unit: a medium that comes and goes, and what MMC says of it.

Source: MMC-6. What Linux asks: drivers/scsi/sr.c, drivers/cdrom/cdrom.c.
"""

from __future__ import annotations

from . import scsi, scsi_disk, scsi_inquiry
from .scsi import CheckCondition
from .scsi_disk import Lun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..disk import Disk
    from .pagelist import PageList
    from .scsi_disk import Handler

SECTOR = 2048
DEVICE_TYPE, REMOVABLE = 0x05, 0x80
PRODUCT = b"Virtual DVD-ROM "
MOST_CD_SECTORS = 80 * 60 * 75  # more is a DVD
FRAMES_PER_SECOND, LEAD_IN_FRAMES = 75, 150
LEAD_OUT, DATA_TRACK = 0xAA, 0x14

# START STOP UNIT, byte 4
START, LOAD_EJECT = 0x01, 0x02
# GET EVENT STATUS NOTIFICATION: class 4 is the medium's
MEDIA_CLASS, POLLED = 4, 0x01
NO_EVENT, NEW_MEDIA, MEDIA_REMOVAL = 0, 2, 3
MEDIA_PRESENT = 0x02

# profiles and features of GET CONFIGURATION
CD_ROM, DVD_ROM = 0x0008, 0x0010
ONE_FEATURE, CURRENT_ONLY = 2, 1


class Cdrom(Lun):
    """A drive with *disk*, an image of 2048-byte sectors, in it; None is an empty drive."""

    __slots__ = ("_identity", "event", "loaded", "locked")

    def __init__(self, disk: Disk | None) -> None:
        super().__init__(disk)  # type: ignore[arg-type]
        self._identity = disk.identity if disk is not None else bytes(16)
        self.loaded, self.locked, self.event = disk is not None, False, NO_EVENT

    @property
    def identity(self) -> bytes:
        """16 bytes that the guest knows the drive by, whatever is in it."""
        return self._identity

    def change(self, disk: Disk | None) -> None:
        """Take the medium out, whatever the guest locked, and put *disk* in, if any."""
        self.disk, self.loaded = disk, disk is not None  # type: ignore[assignment]
        self.event = NEW_MEDIA if self.loaded else MEDIA_REMOVAL
        self.attention = scsi.MEDIUM_MAY_HAVE_CHANGED if self.loaded else None

    def save(self) -> list[object]:
        """Return what a snapshot keeps."""
        return [self.loaded, self.locked, self.event]

    def load(self, state: list[object]) -> None:
        """Undo :meth:`save`."""
        self.loaded, self.locked, self.event = state  # type: ignore[assignment]


def _medium(handler: Handler) -> Handler:
    """Return *handler* for a command that needs a medium."""

    def checked(lun: Lun, cdb: bytes, data: PageList) -> int:
        if not lun.loaded:  # type: ignore[attr-defined]
            raise CheckCondition(scsi.MEDIUM_NOT_PRESENT)
        return handler(lun, cdb, data)

    return checked


def standard(lun: Lun) -> bytes:
    """INQUIRY without EVPD."""
    head = bytes((DEVICE_TYPE, REMOVABLE, scsi_inquiry.SPC_4, scsi_inquiry.RESPONSE_FORMAT, 31))
    return head + bytes(3) + scsi_inquiry.VENDOR + PRODUCT + scsi_inquiry.REVISION


VPD = {
    0x00: lambda lun: bytes(VPD),
    0x80: scsi_inquiry.serial_number,
    0x83: scsi_inquiry.identification,
}


def inquiry(lun: Lun, cdb: bytes, data: PageList) -> int:
    """12h."""
    return scsi_inquiry.answer(lun, cdb, data, standard, VPD, DEVICE_TYPE)


def _capabilities(lun: Lun) -> bytes:
    # reads CD-R, CD-RW, DVD-ROM, DVD-R, DVD-RAM; writes nothing; mode 2, multisession; a tray that
    # locks and ejects; 50-fold speed
    speed = (50 * 176).to_bytes(2, "big")
    return bytes((0x2A, 18, 0x3B, 0, 0x70, 0, 0x29, 0)) + speed + bytes(4) + speed + bytes(4)


MODE_PAGES = {0x2A: _capabilities}


def mode_sense_6(lun: Lun, cdb: bytes, data: PageList) -> int:
    """1Ah; a DVD drive has no write protection bit."""
    return scsi_inquiry.mode_answer_6(cdb, data, scsi_inquiry.mode_pages(lun, cdb, MODE_PAGES), 0)


def mode_sense_10(lun: Lun, cdb: bytes, data: PageList) -> int:
    """5Ah."""
    return scsi_inquiry.mode_answer_10(cdb, data, scsi_inquiry.mode_pages(lun, cdb, MODE_PAGES), 0)


def start_stop_unit(lun: Lun, cdb: bytes, data: PageList) -> int:
    """1Bh: the guest ejects and loads; the image stays the machine's."""
    assert isinstance(lun, Cdrom)
    if not cdb[4] & LOAD_EJECT:
        return 0
    wanted = bool(cdb[4] & START) and lun.disk is not None
    if lun.loaded and not wanted and lun.locked:
        raise CheckCondition(scsi.MEDIUM_REMOVAL_PREVENTED)
    if wanted is not lun.loaded:
        lun.loaded, lun.event = wanted, NEW_MEDIA if wanted else MEDIA_REMOVAL
        lun.attention = scsi.MEDIUM_MAY_HAVE_CHANGED if wanted else None
    return 0


def allow_medium_removal(lun: Lun, cdb: bytes, data: PageList) -> int:
    """1Eh: holds against the guest's own eject."""
    assert isinstance(lun, Cdrom)
    lun.locked = bool(cdb[4] & 1)
    return 0


def _address(cdb: bytes, sector: int) -> bytes:
    if not cdb[1] & 2:
        return sector.to_bytes(4, "big")
    seconds, frame = divmod(sector + LEAD_IN_FRAMES, FRAMES_PER_SECOND)
    return bytes((0, min(seconds // 60, 0xFF), seconds % 60, frame))


def read_toc(lun: Lun, cdb: bytes, data: PageList) -> int:
    """43h, formats 0 (tracks) and 1 (sessions): one data track."""
    kind = cdb[2] & 0x0F or cdb[9] >> 6  # the latter is ATAPI's old place for it
    track = cdb[6]
    if kind == 0 and track in (0, 1, LEAD_OUT):
        tracks = bytes((0, DATA_TRACK, 1, 0)) + _address(cdb, 0) if track <= 1 else b""
        tracks += bytes((0, DATA_TRACK, LEAD_OUT, 0)) + _address(cdb, lun.disk.sectors)
    elif kind == 1:
        tracks = bytes((0, DATA_TRACK, 1, 0)) + _address(cdb, 0)
    else:
        raise CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    reply = (2 + len(tracks)).to_bytes(2, "big") + bytes((1, 1)) + tracks
    return data.write(reply, int.from_bytes(cdb[7:9], "big"))


def _profile(lun: Cdrom) -> int:
    if not lun.loaded:
        return 0
    return DVD_ROM if lun.disk.sectors > MOST_CD_SECTORS else CD_ROM


def _features(profile: int) -> list[tuple[int, int, bytes]]:
    """Return (number, version and persistence and currency, data)."""
    profiles = b"".join(
        one.to_bytes(2, "big") + bytes((one == profile, 0)) for one in (DVD_ROM, CD_ROM)
    )
    readable = SECTOR.to_bytes(4, "big") + bytes((0, 16, 0, 0))
    return [
        (0x0000, 0x03, profiles),
        (0x0001, 0x0B, (1).to_bytes(4, "big") + bytes((1, 0, 0, 0))),  # core: SCSI
        (0x0003, 0x03, bytes((0x29, 0, 0, 0))),  # removable: a tray that locks and ejects
        (0x0010, int(profile != 0), readable),
        (0x001E, 0x08 | (profile == CD_ROM), bytes(4)),
        (0x001F, int(profile == DVD_ROM), b""),
    ]


def get_configuration(lun: Lun, cdb: bytes, data: PageList) -> int:
    """46h."""
    assert isinstance(lun, Cdrom)
    kind, first = cdb[1] & 3, int.from_bytes(cdb[2:4], "big")
    if kind == 3:
        raise CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    profile, body = _profile(lun), b""
    for number, flags, fields in _features(profile):
        wanted = number == first if kind == ONE_FEATURE else number >= first
        if wanted and (kind != CURRENT_ONLY or flags & 1):
            body += number.to_bytes(2, "big") + bytes((flags, len(fields))) + fields
    head = (4 + len(body)).to_bytes(4, "big") + bytes(2) + profile.to_bytes(2, "big")
    return data.write(head + body, int.from_bytes(cdb[7:9], "big"))


def get_event_status_notification(lun: Lun, cdb: bytes, data: PageList) -> int:
    """4Ah, polled: what happened to the medium since it was last asked."""
    assert isinstance(lun, Cdrom)
    if not cdb[1] & POLLED:
        raise CheckCondition(scsi.INVALID_FIELD_IN_CDB)
    allocation = int.from_bytes(cdb[7:9], "big")
    supported = 1 << MEDIA_CLASS
    if not cdb[4] & supported:
        return data.write(bytes((0, 2, 0x80, supported)), allocation)  # NEA: none of those
    reply = bytes((0, 6, MEDIA_CLASS, supported, lun.event, MEDIA_PRESENT * lun.loaded, 0, 0))
    if allocation > 4:
        lun.event = NO_EVENT
    return data.write(reply, allocation)


def read_disc_information(lun: Lun, cdb: bytes, data: PageList) -> int:
    """51h: one complete session with one track, and no room for more."""
    reply = bytes((0, 32, 0x0E, 1, 1, 1, 1, 0x20)) + bytes(26)
    return data.write(reply, int.from_bytes(cdb[7:9], "big"))


def mechanism_status(lun: Lun, cdb: bytes, data: PageList) -> int:
    """BDh: no changer."""
    return data.write(bytes((0, 0, 0, 0, 0, 1, 0, 0)), int.from_bytes(cdb[8:10], "big"))


#: operation code -> name, handler
COMMANDS: dict[int, tuple[str, Handler]] = {
    scsi.TEST_UNIT_READY: ("TEST UNIT READY", _medium(scsi_disk.nothing_to_do)),
    scsi.REQUEST_SENSE: ("REQUEST SENSE", scsi_disk.request_sense),
    scsi.INQUIRY: ("INQUIRY", inquiry),
    scsi.MODE_SENSE_6: ("MODE SENSE (6)", mode_sense_6),
    scsi.START_STOP_UNIT: ("START STOP UNIT", start_stop_unit),
    scsi.ALLOW_MEDIUM_REMOVAL: ("PREVENT ALLOW MEDIUM REMOVAL", allow_medium_removal),
    scsi.READ_CAPACITY_10: ("READ CAPACITY (10)", _medium(scsi_inquiry.read_capacity_10)),
    scsi.READ_10: ("READ (10)", _medium(scsi_disk.read_10)),
    scsi.VERIFY_10: ("VERIFY (10)", _medium(scsi_disk.verify_10)),
    scsi.READ_TOC: ("READ TOC/PMA/ATIP", _medium(read_toc)),
    scsi.GET_CONFIGURATION: ("GET CONFIGURATION", get_configuration),
    scsi.GET_EVENT_STATUS_NOTIFICATION: (
        "GET EVENT STATUS NOTIFICATION", get_event_status_notification,
    ),
    scsi.READ_DISC_INFORMATION: ("READ DISC INFORMATION", _medium(read_disc_information)),
    scsi.MODE_SENSE_10: ("MODE SENSE (10)", mode_sense_10),
    scsi.READ_12: ("READ (12)", _medium(scsi_disk.read_12)),
    scsi.MECHANISM_STATUS: ("MECHANISM STATUS", mechanism_status),
}  # fmt: skip
Cdrom.commands = COMMANDS
