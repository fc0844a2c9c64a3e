"""The guest service that takes a file from the host: name, pieces of 6 KiB, end.

Layouts and limits: linux include/uapi/linux/hyperv.h, tools/hv/hv_fcopy_uio_daemon.c.
"""

from __future__ import annotations

from struct import Struct

from . import protocol as p
from .ic import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .ic import Told

START_FILE_COPY, WRITE_TO_FILE, COMPLETE_FCOPY, CANCEL_FCOPY = range(4)
OVER_WRITE, CREATE_PATH = 1, 2
W_MAX_PATH = 260  # UTF-16 units, with the end
DATA_FRAGMENT = 6 * 1024
HV_ERROR_ALREADY_EXISTS = 0x80070050
HV_ERROR_DISK_FULL = 0x80070070

_header = Struct("<I32x")  # 0:4 operation, then two GUIDs that nobody uses
_start = Struct(f"<I32x{2 * W_MAX_PATH}s{2 * W_MAX_PATH}sIQ")  # name, folder, flags, size
_write = Struct(f"<I32x4xQI{DATA_FRAGMENT}s")  # 40:8 offset, 48:4 bytes, 52: data


class Fcopy(Service):
    """Offered when it is wanted: Linux 6.10 and later lend 47 MiB of the guest's RAM to it."""

    class_guid = p.GUID_FCOPY
    instance_guid = "eb765408-105f-49b6-b4aa-c123b64d17d4"  # the daemon looks for this one
    message_type, versions = 7, ((1, 1), (1, 0))
    guest_side = (
        "before 6.10 hv_utils, then uio_hv_generic; and hv_fcopy_daemon or hv_fcopy_uio_daemon of "
        "hyperv-daemons"
    )

    def start(self, folder: str, name: str, size: int, flags: int, told: Told) -> bool:
        """Name the file; this and the others return what :meth:`ask` does. On the event loop.

        :param folder: ends with "/": Linux's daemon makes what stands before a "/".
        """
        body = _start.pack(START_FILE_COPY, _text(name), _text(folder), flags, size)
        return self.ask(body, told)

    def write(self, offset: int, data: bytes, told: Told) -> bool:
        """Send at most DATA_FRAGMENT bytes."""
        return self.ask(_write.pack(WRITE_TO_FILE, offset, len(data), data), told)

    def complete(self, told: Told) -> bool:
        """All is sent."""
        return self.ask(_header.pack(COMPLETE_FCOPY), told)

    def cancel(self, told: Told | None = None) -> bool:
        """Have what was sent removed."""
        return self.ask(_header.pack(CANCEL_FCOPY), told)


def _text(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def fits(text: str) -> bool:
    """Return whether *text* can be a name or a folder in a message."""
    return "\0" not in text and len(_text(text)) <= 2 * (W_MAX_PATH - 1)
