"""The loop of the backends' tests, which must come down clean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from net_loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    one = Loop()
    yield one
    assert list(one.events._callbacks) == [one.events._wake], "a descriptor is still watched"
    one.events.close()
    assert not one.failures
