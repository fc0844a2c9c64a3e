"""A driver's error path, taken on purpose: the guest's disk fails until the rule is gone."""

from pyhv import Drive

READ = "dd if=/dev/sda of=/tmp/read bs=4096 skip=4 count=1 iflag=direct"


def test_read_errors(vm_factory, linux, tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(4096) * 4 + b"content!" * 512 + bytes(1 << 20))
    vm = vm_factory(**linux, drives=[Drive(str(disk), readonly=True)])
    vm.start()
    vm.run("until test -b /dev/sda; do sleep 1; done", timeout=300)
    with vm.fault("status", device="scsi", lba=32, status=0x04) as rule:  # SRB_STATUS_ERROR
        done = vm.run(READ, timeout=100)
        assert done.status == 1
        assert b"Input/output error" in done.stderr
        assert rule.hits[0].fields["cdb"] == "READ_10"
    done = vm.run(f"{READ} && head -c 8 /tmp/read", timeout=100)
    assert (done.status, done.text) == (0, "content!")
    assert "I/O error, dev sda, sector 32" in vm.run("dmesg").text
