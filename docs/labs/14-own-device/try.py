"""Drives the device with the tests' simulated guest, which needs no KVM, as a driver would."""

import pathlib
import sys

from device import Reverser

import pyhv

sys.path.append(str(pathlib.Path(pyhv.__file__).parents[1] / "tests/unit/vmbus"))
import guest_sim  # noqa: E402

VM_PKT_DATA_INBAND = 6
reverser = Reverser()
guest = guest_sim.Guest(reverser)
for offer in guest.connect():  # INITIATE_CONTACT, REQUESTOFFERS
    print("offered: relid", offer.relid, "class", offer.class_guid.hex())
channel = guest.open(offer.relid)  # GPADL_HEADER, OPENCHANNEL: the rings are the guest's memory
for length, text in ((6, b"olleh!"), (5, b"ecnis"), (60, b"a lie"), (4, b"late")):
    channel.send(guest_sim.packet(VM_PKT_DATA_INBAND, bytes([length]) + text, transaction=7))
    answers = channel.receive()
    print(length, text, "->", [answer.data for answer in answers])
print("served:", reverser.served, "rules broken:", [v.rule for v in guest.server.violations])
guest.close()
