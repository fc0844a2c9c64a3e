"""A name server that knows one name: what a guest asks when it resolves."""

from __future__ import annotations

import socket
import struct
import threading

NAME = "host.pyhv.test"
TYPE_A, NO_SUCH_NAME = 1, 3


class NameServer:
    """Answers on UDP port 53 of 127.0.0.1 inside a ``with`` block: NAME is *address*.

    RFC 1035, section 4: one question, its name repeated by a pointer in the answer.
    """

    def __init__(self, address: str) -> None:
        self._address = socket.inet_aton(address)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(0.2)
        self._ended = False
        self._thread = threading.Thread(target=self._main)

    def __enter__(self) -> NameServer:
        self._socket.bind(("127.0.0.1", 53))
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended = True
        self._thread.join()
        self._socket.close()

    def _main(self) -> None:
        while not self._ended:
            try:
                query, source = self._socket.recvfrom(2048)
            except TimeoutError:
                continue
            self._socket.sendto(self.answer(query), source)

    def answer(self, query: bytes) -> bytes:
        """Return the reply to *query*."""
        end, labels = 12, []
        while query[end]:
            labels.append(query[end + 1 : end + 1 + query[end]].decode())
            end += 1 + query[end]
        kind = struct.unpack_from(">H", query, end + 1)[0]
        question = query[12 : end + 5]
        known = ".".join(labels).lower() == NAME
        records = b""
        if known and kind == TYPE_A:
            records = struct.pack(">HHHIH", 0xC00C, TYPE_A, 1, 60, 4) + self._address
        flags = 0x8180 if known else 0x8180 | NO_SUCH_NAME
        head = query[:2] + struct.pack(">HHHHH", flags, 1, bool(records), 0, 0)
        return head + question + records
