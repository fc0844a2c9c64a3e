"""Pictures of a guest's screen, and the few bytes around zlib that make a PNG of one."""

from __future__ import annotations

import os

from .errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .vmbus.video import Situation

COLOUR_RGB = 2  # PNG colour type
FASTEST = 1  # zlib's level: text on a black screen is small anyway


class Picture:
    """*width* times *height* pixels; ``rgb`` has three bytes for each, rows from the top."""

    __slots__ = ("width", "height", "rgb")

    def __init__(self, shown: Situation, data: bytes) -> None:
        """Take x8r8g8b8 (bytes: blue, green, red, unused) in rows of ``shown.pitch`` bytes."""
        width, height, pitch = shown.width, shown.height, shown.pitch
        if pitch != 4 * width:
            data = b"".join(data[at : at + 4 * width] for at in range(0, pitch * height, pitch))
        rgb = bytearray(3 * width * height)
        for colour in range(3):
            rgb[colour::3] = data[2 - colour :: 4]
        self.width, self.height, self.rgb = width, height, bytes(rgb)

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """Return red, green, blue of the pixel *x* from the left, *y* from the top."""
        at = 3 * (y * self.width + x)
        return tuple(self.rgb[at : at + 3])  # type: ignore[return-value]

    def png(self) -> bytes:
        """Return it as a PNG file; W3C PNG specification, 5 and 11.2."""
        import zlib

        row = 3 * self.width
        rows = b"".join(  # filter 0 before each
            b"\0" + self.rgb[at : at + row] for at in range(0, len(self.rgb), row)
        )
        size = self.width.to_bytes(4, "big") + self.height.to_bytes(4, "big")
        chunks = (
            (b"IHDR", size + bytes((8, COLOUR_RGB, 0, 0, 0))),
            (b"IDAT", zlib.compress(rows, FASTEST)),
            (b"IEND", b""),
        )
        found = [b"\x89PNG\r\n\x1a\n"]
        for name, data in chunks:
            check = zlib.crc32(name + data).to_bytes(4, "big")
            found += (len(data).to_bytes(4, "big"), name, data, check)
        return b"".join(found)

    def ppm(self) -> bytes:
        """Return it as a portable pixmap, P6."""
        return f"P6\n{self.width} {self.height}\n255\n".encode() + self.rgb

    def save(self, path: str | os.PathLike[str], kind: str = "png") -> None:
        """Write it to *path*, as "png" or "ppm". :raises HostError: it cannot be written."""
        data = {"png": self.png, "ppm": self.ppm}[kind]()
        try:
            with open(path, "wb") as file:
                file.write(data)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise HostError(f"screenshot {os.fspath(path)}: {reason}") from error
