"""What a host asks of Hyper-V's daemons in a guest: key-value pairs, frozen file systems.

The daemons are Linux's hyperv-daemons; the protocols are in vmbus/: kvp.py, vss.py.
"""

from __future__ import annotations

import time

from .errors import ConfigError, HostError
from .services import Services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .kvp import Pools
    from .vmbus.vss import Vss

FREEZE_S = 60.0


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
