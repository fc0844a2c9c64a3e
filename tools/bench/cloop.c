/* The least a KVM program can do: one vCPU, one loop, a switch. What Python is measured against.
 *
 * cloop SECTOR [ring]: loads SECTOR at 0x7c00, runs it in real mode, ends at a write to port 0xf4.
 * ring: port 0x3f8 through KVM's coalesced ring, its bytes to stdout.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM (2UL << 20)
#define RING_ENTRIES ((4096 - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

static int call(int fd, unsigned long request, void *argument, const char *name)
{
	int result = ioctl(fd, request, argument);

	if (result < 0) {
		perror(name);
		exit(2);
	}
	return result;
}
#define CALL(fd, request, argument) call(fd, request, (void *)(argument), #request)

static void drain(struct kvm_coalesced_mmio_ring *ring)
{
	char text[RING_ENTRIES];
	size_t length = 0;

	while (ring->first != ring->last) {
		text[length++] = ring->coalesced_mmio[ring->first].data[0];
		ring->first = (ring->first + 1) % RING_ENTRIES;
	}
	if (length && write(1, text, length) != (ssize_t)length)
		exit(3);
}

int main(int argc, char **argv)
{
	int file = open(argv[1], O_RDONLY), kvm = open("/dev/kvm", O_RDWR), vm, vcpu, size;
	int with_ring = argc > 2 && !strcmp(argv[2], "ring");
	uint8_t *ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = { .memory_size = RAM, .userspace_addr = (uintptr_t)ram };
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR,
				      .args = { KVM_MSR_EXIT_REASON_FILTER } };
	static uint8_t none[64];
	struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW, .ranges = { {
		.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
		.base = 0x40000000, .nmsrs = 512, .bitmap = none } } };
	struct kvm_coalesced_mmio_zone zone = { .addr = 0x3f8, .size = 1, .pio = 1 };
	struct kvm_coalesced_mmio_ring *ring;
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[256]; } cpuid = { .head.nent = 256 };
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = 0x7c00, .rflags = 2 };
	struct kvm_run *run;
	uint64_t msr = 0;

	if (file < 0 || kvm < 0 || ram == MAP_FAILED || read(file, ram + 0x7c00, 65536) < 512) {
		perror("cloop");
		return 2;
	}
	vm = CALL(kvm, KVM_CREATE_VM, 0);
	CALL(vm, KVM_SET_TSS_ADDR, 0xfffbd000UL);
	CALL(vm, KVM_SET_USER_MEMORY_REGION, &slot);
	CALL(vm, KVM_CREATE_IRQCHIP, 0);
	CALL(vm, KVM_ENABLE_CAP, &cap);
	CALL(vm, KVM_X86_SET_MSR_FILTER, &filter);
	if (with_ring)
		CALL(vm, KVM_REGISTER_COALESCED_MMIO, &zone);
	vcpu = CALL(vm, KVM_CREATE_VCPU, 0);
	size = CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	ring = (void *)((char *)run + KVM_COALESCED_MMIO_PAGE_OFFSET * 4096);
	CALL(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
	CALL(vcpu, KVM_SET_CPUID2, &cpuid);
	CALL(vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs.base = sregs.cs.selector = 0;
	CALL(vcpu, KVM_SET_SREGS, &sregs);
	CALL(vcpu, KVM_SET_REGS, &regs);
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0) < 0) {
			if (errno == EINTR)
				continue;
			perror("KVM_RUN");
			return 2;
		}
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (run->io.direction == KVM_EXIT_IO_OUT) {
				if (with_ring)
					drain(ring);
				if (run->io.port == 0xf4)
					return 0;
				if (run->io.port == 0x3f8 && write(1, (char *)run + run->io.data_offset, 1) != 1)
					return 3;
			} else {
				*((uint8_t *)run + run->io.data_offset) = 0xff;
			}
			break;
		case KVM_EXIT_MMIO:
			if (!run->mmio.is_write)
				memset(run->mmio.data, 0xff, 8);
			break;
		case KVM_EXIT_X86_WRMSR:
			msr = run->msr.data;
			break;
		case KVM_EXIT_X86_RDMSR:
			run->msr.data = msr;
			break;
		default:
			fprintf(stderr, "exit reason %u\n", run->exit_reason);
			return 2;
		}
	}
}
