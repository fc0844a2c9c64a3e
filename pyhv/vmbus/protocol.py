"""Numbers and layouts of VMBus: messages, ring packets, GUIDs; no behaviour.

Names and layouts: linux include/linux/hyperv.h; all little-endian. Comments beside a
struct give offset:size of its fields.
"""

from struct import Struct

# Versions, major << 16 | minor. Names of Windows releases are those of the Linux header.
VERSION_WS2008 = 0x0000000D
VERSION_WIN7 = 0x00010001
VERSION_WIN8 = 0x00020004
VERSION_WIN8_1 = 0x00030000
VERSION_WIN10 = 0x00040000
VERSION_WIN10_V4_1 = 0x00040001
VERSION_WIN10_V5 = 0x00050000
VERSION_WIN10_V5_1 = 0x00050001
VERSION_WIN10_V5_2 = 0x00050002
VERSION_WIN10_V5_3 = 0x00050003
VERSIONS = {
    "0.13": VERSION_WS2008,
    "1.1": VERSION_WIN7,
    "2.4": VERSION_WIN8,
    "3.0": VERSION_WIN8_1,
    "4.0": VERSION_WIN10,
    "4.1": VERSION_WIN10_V4_1,
    "5.0": VERSION_WIN10_V5,
    "5.1": VERSION_WIN10_V5_1,
    "5.2": VERSION_WIN10_V5_2,
    "5.3": VERSION_WIN10_V5_3,
}

# Connections and the SynIC
VMBUS_MESSAGE_CONNECTION_ID = 1
VMBUS_EVENT_CONNECTION_ID = 2  # of all channels, before 2.4
VMBUS_MESSAGE_CONNECTION_ID_4 = 4  # INITIATE_CONTACT of 5.0 and later
VMBUS_MESSAGE_SINT = 2
EVENT_CONNECTION_BASE = 0x10000  # ours: the event connection of a channel is this + relid
HVMSG_VMBUS = 1  # message type of everything here, both ways
MAX_RELID = 2047  # an event flag of the SIEF slot each
SINT_COUNT = 16

# Channel message types
CHANNELMSG_OFFERCHANNEL = 1
CHANNELMSG_RESCIND_CHANNELOFFER = 2
CHANNELMSG_REQUESTOFFERS = 3
CHANNELMSG_ALLOFFERS_DELIVERED = 4
CHANNELMSG_OPENCHANNEL = 5
CHANNELMSG_OPENCHANNEL_RESULT = 6
CHANNELMSG_CLOSECHANNEL = 7
CHANNELMSG_GPADL_HEADER = 8
CHANNELMSG_GPADL_BODY = 9
CHANNELMSG_GPADL_CREATED = 10
CHANNELMSG_GPADL_TEARDOWN = 11
CHANNELMSG_GPADL_TORNDOWN = 12
CHANNELMSG_RELID_RELEASED = 13
CHANNELMSG_INITIATE_CONTACT = 14
CHANNELMSG_VERSION_RESPONSE = 15
CHANNELMSG_UNLOAD = 16
CHANNELMSG_UNLOAD_RESPONSE = 17
CHANNELMSG_TL_CONNECT_REQUEST = 21
CHANNELMSG_MODIFYCHANNEL = 22
CHANNELMSG_TL_CONNECT_RESULT = 23
CHANNELMSG_MODIFYCHANNEL_RESPONSE = 24

# Messages, with their header: 0:4 type, 4:4 zero
MESSAGE_HEADER = Struct("<II")
# 8:16 class, 24:16 instance, 40:16 zero, 56:2 flags, 58:2 MMIO MB, 60:120 user data,
# 180:2 sub index, 182:2 zero, 184:4 relid, 188:1 monitor id, 189:1 monitor allocated,
# 190:2 dedicated, 192:4 connection id
OFFER_CHANNEL = Struct("<II16s16s16xHH120sH2xIBBHI")
RELID_MESSAGE = Struct("<III")  # 8:4 relid (RESCIND, CLOSECHANNEL, RELID_RELEASED)
# 8:4 relid, 12:4 open id, 16:4 ring GPADL, 20:4 target vp, 24:4 page of the second ring (,28:120)
OPEN_CHANNEL = Struct("<8xIIIII")
OPEN_RESULT = Struct("<IIIII")  # 8:4 relid, 12:4 open id, 16:4 status
GPADL_HEADER = Struct("<8xIIHH")  # 8:4 relid, 12:4 gpadl, 16:2 bytes, 18:2 ranges, 20: ranges
GPADL_BODY = Struct("<8xII")  # 8:4 number, 12:4 gpadl, 16: more of the ranges
GPADL_CREATED = Struct("<IIIII")  # 8:4 relid, 12:4 gpadl, 16:4 status
GPADL_TEARDOWN = Struct("<8xII")  # 8:4 relid, 12:4 gpadl
GPADL_TORNDOWN = Struct("<III")  # 8:4 gpadl
# 8:4 version, 12:4 target vp, 16:8 interrupt page (5.0: 16:1 SINT, 17:1 VTL), 24:16 monitor pages
INITIATE_CONTACT = Struct("<8xIIQQQ")
# 8:1 supported, 9:1 state, 12:4 message connection id (before 5.0: the version)
VERSION_RESPONSE = Struct("<IIBBHI")
TL_CONNECT = Struct("<8x16s16s")  # 8:16 endpoint, 24:16 service
TL_RESULT = Struct("<II16s16sI")  # 8:16 endpoint, 24:16 service, 40:4 status
MODIFY_CHANNEL = Struct("<8xII")  # 8:4 relid, 12:4 target vp
MODIFY_RESPONSE = Struct("<IIII")  # 8:4 relid, 12:4 status
GPA_RANGE = Struct("<II")  # 0:4 bytes, 4:4 offset in the first page, 8: u64 page numbers

STATUS_SUCCESS = 0
STATUS_INVALID_PARAMETER = 0xC000000D  # NTSTATUS; Linux only looks whether it is 0
STATUS_INSUFFICIENT_RESOURCES = 0xC000009A
STATUS_CONNECTION_REFUSED = 0xC0000236

# Offer flags
VMBUS_CHANNEL_NAMED_PIPE_MODE = 0x10
VMBUS_CHANNEL_TLNPI_PROVIDER_OFFER = 0x2000  # hv_sock
VMBUS_PIPE_TYPE_MESSAGE = 4  # first u32 of a pipe offer's user data

# Ring header page: offsets of its u32 words
RING_WRITE_INDEX = 0
RING_READ_INDEX = 4
RING_INTERRUPT_MASK = 8
RING_PENDING_SEND_SIZE = 12
RING_FEATURE_BITS = 64
RING_FEAT_PENDING_SEND_SIZE = 1

# Ring packets: 0:2 type, 2:2 header bytes / 8, 4:2 all bytes / 8, 6:2 flags, 8:8 transaction id;
# after the packet, not in its length, 8 bytes: write index before it << 32
PACKET_HEADER = Struct("<HHHHQ")
PACKET_TRAILER = Struct("<Q")
VM_PKT_DATA_INBAND = 6
VM_PKT_DATA_USING_XFER_PAGES = 7
VM_PKT_DATA_USING_GPADL = 8
VM_PKT_DATA_USING_GPA_DIRECT = 9
VM_PKT_CANCEL_REQUEST = 10
VM_PKT_COMP = 11
VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED = 1
GPA_DIRECT_HEADER = Struct("<II")  # 16:4 zero, 20:4 ranges, 24: GPA_RANGEs

# Class GUIDs
GUID_SCSI = "ba6163d9-04a1-4d29-b605-72e2ffb1dc7f"
GUID_SHUTDOWN = "0e0b6031-5213-4934-818b-38d90ced39db"
GUID_TIMESYNC = "9527e630-d0ae-497b-adce-e80ab0175caf"
GUID_HEARTBEAT = "57164f39-9115-4e78-ab55-382f3bd5422d"
GUID_NET = "f8615163-df3e-46c5-913f-f2d2f965ed0e"
GUID_KVP = "a9a0f4e7-5a45-4d96-b827-8a841e8c03e6"
GUID_VSS = "35fa2e29-ea23-4236-96ae-3a6ebacba440"
GUID_FCOPY = "34d14be3-dee4-41c8-9ae7-6b174977c192"
GUID_DYNMEM = "525074dc-8985-46e2-8057-a307dc18a502"
GUID_KEYBOARD = "f912ad6d-2b17-48ea-bd65-f927a61c7684"
GUID_MOUSE = "cfa8b69e-5b4a-4cc0-b98b-8ba1a1f3f95a"
GUID_VIDEO = "da0a7802-e377-4aac-8e77-0558eb1073f8"
