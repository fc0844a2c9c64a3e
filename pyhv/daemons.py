"""What a host asks of Hyper-V's daemons in a guest: pairs, frozen file systems, files from outside.

The daemons are Linux's hyperv-daemons; the protocols are in vmbus/: kvp.py, vss.py, fcopy.py.
"""

from __future__ import annotations

import os
import time
from posixpath import basename, dirname

from .errors import ConfigError, HostError
from .services import Services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from .kvp import Pools
    from .vmbus.fcopy import Fcopy
    from .vmbus.vss import Vss

FREEZE_S, COPY_S = 60.0, 60.0
LOOK_S = 0.05
HV_E_FAIL = 0x80004005


class Daemons(Services):
    """The part of Machine that needs a daemon in the guest; any thread but the event loop's."""

    _pools: Pools | None = None

    @property
    def kvp(self) -> Pools:
        """The guest's key-value pairs, a mapping of strings; see kvp.py.

        ::

            vm.kvp["OSName"]  # what the guest says of itself
            vm.kvp["role"] = "database"  # in the guest: /var/lib/hyperv/.kvp_pool_0
            dict(vm.kvp.pool("guest"))  # what programs in the guest have put there
        """
        if self._pools is None:
            from .kvp import Pools

            self._pools = Pools(self)
        return self._pools

    def freeze(self, timeout: float = FREEZE_S) -> None:
        """Write out and freeze the guest's file systems; what writes in the guest waits for thaw.

        When this returns, the disk's image is whole: it may be copied. Not frozen in *timeout*
        seconds, it is thawed again as soon as it can be.

        :raises ConfigError: the machine does not run, or its guest has no driver or no daemon.
        :raises HostError: the guest could not freeze, or has not answered in time.
        """
        vss = self._components("freeze").vss
        deadline = time.monotonic() + timeout
        if self._ask("freeze", vss, vss.check, timeout)[0]:
            raise ConfigError("freeze: no hv_vss_daemon runs in the guest (Debian: hyperv-daemons)")
        try:
            left = max(0.0, deadline - time.monotonic())
            status, _ = self._ask("freeze", vss, vss.freeze, left)
        except BaseException:
            self.call(vss.give_up)
            raise
        if status:
            raise HostError(f"freeze: the guest could not freeze, status {status:#x}")

    def thaw(self, timeout: float = FREEZE_S) -> None:
        """Let the guest's file systems go on.

        :raises ConfigError, HostError: as :meth:`freeze`.
        """
        self._thaw(self._components("thaw").vss, timeout)

    def _thaw(self, vss: Vss, timeout: float) -> None:
        status, _ = self._ask("thaw", vss, vss.thaw, timeout)
        if status:
            raise HostError(f"thaw: the guest could not thaw, status {status:#x}")

    def frozen(self, timeout: float = FREEZE_S) -> Frozen:
        """``with vm.frozen(): copy(image)``: freeze, and thaw whatever happens.

        A guest that was reset meanwhile has nothing to thaw.
        """
        return Frozen(self, timeout)

    def copy_in(
        self, path: str | os.PathLike[str], to: str, *, overwrite: bool = False,
        timeout: float = COPY_S,
    ) -> None:  # fmt: skip
        """Copy a file of the host into the guest.

        :param to: an absolute path there; one that ends with "/" is a folder, and the name stays.
            Folders are made.
        :param timeout: seconds for all of it, the first time also for the guest's driver to come.
        :raises ConfigError: no such file, a path that cannot be, no driver or no daemon.
        :raises HostError: the guest could not take it, or not in time.
        """
        what = f"copy_in {to}"
        deadline = time.monotonic() + timeout
        folder, name = dirname(to), basename(to) or os.path.basename(os.fspath(path))
        _check(what, to, folder, name)
        try:
            with open(path, "rb") as file:
                fcopy = self._fcopy(what, deadline)
                self._copy(what, fcopy, file, (folder.rstrip("/") + "/", name, overwrite), deadline)
        except OSError as error:
            if error.filename is None:
                raise
            raise ConfigError(f"{what}: {error.filename}: {error.strerror}") from error

    def _fcopy(self, what: str, deadline: float) -> Fcopy:
        """Return the service once the guest's driver has agreed; offer it if it was not yet."""
        from .vmbus.fcopy import Fcopy

        self._components(what)
        board = self.board

        def offer() -> None:
            if board.vmbus is not None and not board.closed and "fcopy" not in board.offered:
                board.offered["fcopy"] = fcopy = Fcopy()
                board.vmbus.offer(fcopy)

        self.call(offer)
        while True:
            fcopy = board.offered.get("fcopy")
            if fcopy is not None and fcopy.version is not None:
                return fcopy
            if time.monotonic() >= deadline or board.ended:
                raise ConfigError(
                    f"{what}: no driver and daemon for it came up in the guest (Linux: "
                    f"{Fcopy.guest_side})"
                )
            time.sleep(LOOK_S)

    def _copy(
        self, what: str, fcopy: Fcopy, file: BinaryIO, target: tuple[str, str, bool],
        deadline: float,
    ) -> None:  # fmt: skip
        from .vmbus import fcopy as protocol

        folder, name, overwrite = target
        flags = protocol.CREATE_PATH | (protocol.OVER_WRITE if overwrite else 0)
        texts = {
            protocol.HV_ERROR_ALREADY_EXISTS: "it exists in the guest; overwrite=True replaces it",
            protocol.HV_ERROR_DISK_FULL: "the guest's disk is full",
            HV_E_FAIL: "the guest cannot make it, or its hv_fcopy_daemon does not run",
        }

        def ask(operation, *arguments: object) -> None:
            left = max(0.0, deadline - time.monotonic())
            status, _ = self._ask(what, fcopy, lambda told: operation(*arguments, told), left)
            if status:
                raise HostError(f"{what}: {texts.get(status, f'refused, status {status:#x}')}")

        ask(fcopy.start, folder, name, os.fstat(file.fileno()).st_size, flags)
        try:
            offset = 0
            while data := file.read(protocol.DATA_FRAGMENT):
                ask(fcopy.write, offset, data)
                offset += len(data)
            ask(fcopy.complete)
        except BaseException:
            self.call(fcopy.cancel)
            raise


class Frozen:
    """What :meth:`Daemons.frozen` returns."""

    def __init__(self, vm: Daemons, timeout: float) -> None:
        self._vm, self._timeout = vm, timeout

    def __enter__(self) -> None:
        self._vss = self._vm._components("freeze").vss
        self._vm.freeze(self._timeout)

    def __exit__(self, *exception: object) -> None:
        if self._vss.frozen:
            self._vm._thaw(self._vss, self._timeout)


def _check(what: str, to: str, folder: str, name: str) -> None:
    from .vmbus.fcopy import fits

    if not to.startswith("/") or name in ("", ".", ".."):
        raise ConfigError(f"{what}: not an absolute path of a file in the guest")
    if not (fits(name) and fits(folder + "/")):
        raise ConfigError(f"{what}: a folder and a name have at most 259 UTF-16 units each")
