"""What a host asks of Hyper-V's daemons in a guest: key-value pairs (Linux: hyperv-daemons).

The protocols are in vmbus/: kvp.py.
"""

from __future__ import annotations

from .services import Services

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .kvp import Pools


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
