"""SCSI as the disk speaks it: operation codes, sense codes, and the exception that carries one.

Sources: SPC-4 (INQUIRY, MODE SENSE, sense data), SBC-3 (block commands, UNMAP, WRITE SAME),
MMC-6 (DVD drives).
"""

from __future__ import annotations

import errno

# Operation codes
TEST_UNIT_READY = 0x00
REQUEST_SENSE = 0x03
READ_6 = 0x08
WRITE_6 = 0x0A
INQUIRY = 0x12
MODE_SENSE_6 = 0x1A
START_STOP_UNIT = 0x1B
ALLOW_MEDIUM_REMOVAL = 0x1E
READ_CAPACITY_10 = 0x25
READ_10 = 0x28
WRITE_10 = 0x2A
VERIFY_10 = 0x2F
SYNCHRONIZE_CACHE_10 = 0x35
WRITE_SAME_10 = 0x41
UNMAP = 0x42
READ_TOC = 0x43
GET_CONFIGURATION = 0x46
GET_EVENT_STATUS_NOTIFICATION = 0x4A
READ_DISC_INFORMATION = 0x51
MODE_SENSE_10 = 0x5A
READ_16 = 0x88
WRITE_16 = 0x8A
VERIFY_16 = 0x8F
SYNCHRONIZE_CACHE_16 = 0x91
WRITE_SAME_16 = 0x93
SERVICE_ACTION_IN_16 = 0x9E
READ_CAPACITY_16 = 0x10  # its service action
REPORT_LUNS = 0xA0
READ_12 = 0xA8
WRITE_12 = 0xAA
MECHANISM_STATUS = 0xBD

GOOD, CHECK_CONDITION, TASK_SET_FULL = 0x00, 0x02, 0x28

# Sense keys
NO_SENSE, NOT_READY, MEDIUM_ERROR, HARDWARE_ERROR = 0x0, 0x2, 0x3, 0x4
ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT = 0x5, 0x6, 0x7

# (key, additional sense code, its qualifier)
WRITE_ERROR = (MEDIUM_ERROR, 0x0C, 0x00)
UNRECOVERED_READ_ERROR = (MEDIUM_ERROR, 0x11, 0x00)
INTERNAL_TARGET_FAILURE = (HARDWARE_ERROR, 0x44, 0x00)
PARAMETER_LIST_LENGTH = (ILLEGAL_REQUEST, 0x1A, 0x00)
INVALID_OPERATION_CODE = (ILLEGAL_REQUEST, 0x20, 0x00)
LBA_OUT_OF_RANGE = (ILLEGAL_REQUEST, 0x21, 0x00)
INVALID_FIELD_IN_CDB = (ILLEGAL_REQUEST, 0x24, 0x00)
INVALID_FIELD_IN_PARAMETERS = (ILLEGAL_REQUEST, 0x26, 0x00)
WRITE_PROTECTED = (DATA_PROTECT, 0x27, 0x00)
SPACE_ALLOCATION_FAILED = (DATA_PROTECT, 0x27, 0x07)  # Linux: ENOSPC
MEDIUM_NOT_PRESENT = (NOT_READY, 0x3A, 0x00)
MEDIUM_REMOVAL_PREVENTED = (ILLEGAL_REQUEST, 0x53, 0x02)
MEDIUM_MAY_HAVE_CHANGED = (UNIT_ATTENTION, 0x28, 0x00)
CAPACITY_DATA_HAS_CHANGED = (UNIT_ATTENTION, 0x2A, 0x09)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

SENSE_LENGTH = 18

Sense = tuple[int, int, int]


class CheckCondition(Exception):
    """Ends a command with CHECK CONDITION and *sense*; never leaves the SCSI device."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(sense)
        self.sense = sense


class Overrun(Exception):
    """The command moves more than the request's buffer holds; never leaves the SCSI device."""


def sense_data(sense: Sense) -> bytes:
    """Return fixed-format sense data, 18 bytes (SPC-4, 4.5.3)."""
    key, code, qualifier = sense
    head = bytes((0x70, 0, key, 0, 0, 0, 0, SENSE_LENGTH - 8))
    return head + bytes((0, 0, 0, 0, code, qualifier, 0, 0, 0, 0))


def sense_of(error: OSError, writing: bool) -> Sense:
    """Return what the guest hears of an error of the image file. Never nothing."""
    if error.errno in NO_SPACE and writing:
        return SPACE_ALLOCATION_FAILED
    if error.errno == errno.EIO:
        return WRITE_ERROR if writing else UNRECOVERED_READ_ERROR
    return INTERNAL_TARGET_FAILURE
