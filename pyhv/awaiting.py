"""A blocking call awaited: asyncio's own pool has few threads, and cannot stop what it runs."""

from __future__ import annotations

import asyncio
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


async def in_thread(function: Callable[[], T], cancel: Callable[[], object] | None = None) -> T:
    """Return ``function()``, run on a thread of its own.

    A cancelled caller goes when the function has ended, so that it knows what is the case.

    :param cancel: makes the function end soon; without it the function's own deadline does.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # the loop is being closed
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def main() -> None:
        try:
            result, error = function(), None
        except BaseException as raised:
            result, error = None, raised
        loop.call_soon_threadsafe(settle, result, error)

    thread = threading.Thread(target=main, name="aio", daemon=True)
    thread.start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if cancel is not None:
            cancel()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:  # cancelled again: it ends soon all the same
                continue
        future.exception()  # nobody will ask for it
        raise
    finally:
        thread.join()
