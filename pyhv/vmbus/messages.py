"""The messages a guest may send: for each its name, its least length, and what it does.

Sources: linux drivers/hv/connection.c, channel.c, channel_mgmt.c (what guests expect);
openvmm's list of errors (what guests get wrong).
"""

from __future__ import annotations

from . import protocol as p
from .channel import OPEN
from .rules import BrokenRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .server import VmbusServer

LINUX_SHORT_OPEN = p.OPEN_CHANNEL.size


def initiate_contact(server: VmbusServer, message: bytes) -> None:
    """14: a new contact ends all that was before (reboot, kexec, another driver)."""
    version, vp, interrupt_page, _, _ = p.INITIATE_CONTACT.unpack_from(message)
    # 5.0 put the SINT, and a VTL that we do not have, where the interrupt page was
    sint = interrupt_page & 0xFF if version >= p.VERSION_WIN10_V5 else p.VMBUS_MESSAGE_SINT
    if vp >= server.vp_count or sint >= p.SINT_COUNT:
        raise BrokenRule("contact-target", f"VP {vp}, SINT {sint}")
    server.contact(version, vp, sint)


def request_offers(server: VmbusServer, message: bytes) -> None:
    """3: all offers, then 4."""
    server.deliver_offers()


def open_channel(server: VmbusServer, message: bytes) -> None:
    """5: answered by 6 in every case; then the device may send."""
    relid, open_id, gpadl, vp, out_page = p.OPEN_CHANNEL.unpack_from(message)
    status = server.open(relid, gpadl, vp, out_page)
    server.send(p.OPEN_RESULT.pack(p.CHANNELMSG_OPENCHANNEL_RESULT, 0, relid, open_id, status))
    channel = server.channels.get(relid)
    # an instrument may have closed it behind that answer
    if status == p.STATUS_SUCCESS and channel is not None and channel.state == OPEN:
        channel.device.opened(channel)


def close_channel(server: VmbusServer, message: bytes) -> None:
    """7: no answer."""
    server.close_channel(p.RELID_MESSAGE.unpack_from(message)[2])


def gpadl_header(server: VmbusServer, message: bytes) -> None:
    """8: answered by 10 when the last body is there, or when it is refused."""
    relid, gpadl, _, _ = p.GPADL_HEADER.unpack_from(message)
    try:
        server.channel(relid)
        done = server.gpadls.header(message)
    except BrokenRule as error:
        _gpadl_refused(server, relid, gpadl, error)
        return
    if done is not None:
        _gpadl_created(server, relid, gpadl, p.STATUS_SUCCESS)


def gpadl_body(server: VmbusServer, message: bytes) -> None:
    """9: has no relid; those of several GPADLs may come mixed."""
    _, gpadl = p.GPADL_BODY.unpack_from(message)
    relid = server.gpadls.pending(gpadl)
    try:
        done = server.gpadls.body(message)
    except BrokenRule as error:
        if relid is None:
            raise  # not ours to answer: nothing was begun, or it is complete
        _gpadl_refused(server, relid, gpadl, error)
        return
    if done is not None:
        _gpadl_created(server, done.relid, gpadl, p.STATUS_SUCCESS)


def _gpadl_created(server: VmbusServer, relid: int, gpadl: int, status: int) -> None:
    server.send(p.GPADL_CREATED.pack(p.CHANNELMSG_GPADL_CREATED, 0, relid, gpadl, status))


def _gpadl_refused(server: VmbusServer, relid: int, gpadl: int, error: BrokenRule) -> None:
    server.broken(error, relid=relid)
    quota = error.rule == "gpadl-quota"
    status = p.STATUS_INSUFFICIENT_RESOURCES if quota else p.STATUS_INVALID_PARAMETER
    _gpadl_created(server, relid, gpadl, status)


def gpadl_teardown(server: VmbusServer, message: bytes) -> None:
    """11: answered by 12, for an unknown id too: Linux waits for it without limit."""
    relid, gpadl = p.GPADL_TEARDOWN.unpack_from(message)
    found = server.gpadls.find(gpadl)
    if found is not None and found.relid != relid:
        raise BrokenRule("gpadl-unknown", f"{gpadl:#x} is of relid {found.relid}, not {relid}")
    if found is None:
        server.broken(BrokenRule("gpadl-unknown", f"teardown of {gpadl:#x}"), relid=relid)
    else:
        server.tear_down(found)
    server.send(p.GPADL_TORNDOWN.pack(p.CHANNELMSG_GPADL_TORNDOWN, 0, gpadl))


def relid_released(server: VmbusServer, message: bytes) -> None:
    """13: the guest has let a rescinded channel go."""
    server.release(p.RELID_MESSAGE.unpack_from(message)[2])


def unload(server: VmbusServer, message: bytes) -> None:
    """16: the guest leaves (reboot, kexec, a crash); after one it waits 100 s for the answer."""
    server.reset()
    server.send(p.MESSAGE_HEADER.pack(p.CHANNELMSG_UNLOAD_RESPONSE, 0))


def tl_connect(server: VmbusServer, message: bytes) -> None:
    """21: hv_sock; answered by an offer, or by 23 (which Linux does not look at)."""
    endpoint, service = p.TL_CONNECT.unpack_from(message)
    status = p.STATUS_CONNECTION_REFUSED
    if server.sockets is not None and server.offering:
        status = server.sockets.request(endpoint, service)
    if status == p.STATUS_SUCCESS:
        return
    server.send(p.TL_RESULT.pack(p.CHANNELMSG_TL_CONNECT_RESULT, 0, endpoint, service, status))


def modify_channel(server: VmbusServer, message: bytes) -> None:
    """22: events go to another VP; answered by 24 from 5.3 on."""
    relid, vp = p.MODIFY_CHANNEL.unpack_from(message)
    status = p.STATUS_SUCCESS
    try:
        channel = server.channel(relid)
        if channel.state != OPEN:
            raise BrokenRule("relid-state", f"MODIFYCHANNEL of relid {relid}, {channel.state}")
        if vp >= server.vp_count:
            raise BrokenRule("open-vp", f"VP {vp} of {server.vp_count}")
        channel.retarget(vp)
    except BrokenRule as error:
        server.broken(error, relid=relid)
        status = p.STATUS_INVALID_PARAMETER
    if server.version is not None and server.version >= p.VERSION_WIN10_V5_3:
        response = p.CHANNELMSG_MODIFYCHANNEL_RESPONSE
        server.send(p.MODIFY_RESPONSE.pack(response, 0, relid, status))


#: type -> name, least length, allowed without contact, handler
GUEST_MESSAGES: dict[int, tuple[str, int, bool, Callable[[VmbusServer, bytes], None]]] = {
    p.CHANNELMSG_REQUESTOFFERS: ("REQUESTOFFERS", 8, False, request_offers),
    p.CHANNELMSG_OPENCHANNEL: ("OPENCHANNEL", p.OPEN_CHANNEL.size, False, open_channel),
    p.CHANNELMSG_CLOSECHANNEL: ("CLOSECHANNEL", 12, False, close_channel),
    p.CHANNELMSG_GPADL_HEADER: ("GPADL_HEADER", p.GPADL_HEADER.size, False, gpadl_header),
    p.CHANNELMSG_GPADL_BODY: ("GPADL_BODY", p.GPADL_BODY.size, False, gpadl_body),
    p.CHANNELMSG_GPADL_TEARDOWN: ("GPADL_TEARDOWN", p.GPADL_TEARDOWN.size, False, gpadl_teardown),
    p.CHANNELMSG_RELID_RELEASED: ("RELID_RELEASED", 12, False, relid_released),
    p.CHANNELMSG_INITIATE_CONTACT: (
        "INITIATE_CONTACT", p.INITIATE_CONTACT.size, True, initiate_contact,
    ),
    p.CHANNELMSG_UNLOAD: ("UNLOAD", 8, True, unload),
    p.CHANNELMSG_TL_CONNECT_REQUEST: ("TL_CONNECT_REQUEST", p.TL_CONNECT.size, False, tl_connect),
    p.CHANNELMSG_MODIFYCHANNEL: ("MODIFYCHANNEL", p.MODIFY_CHANNEL.size, False, modify_channel),
}  # fmt: skip
