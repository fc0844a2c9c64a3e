/* Keeps a disk busy: DEPTH requests of BYTES at a time, until COUNT are done, past the page cache.
 *
 * queue DEVICE r|w BYTES DEPTH STRIDE COUNT: request n is at n * STRIDE * BYTES, around the end; a
 * STRIDE of more than 1 keeps the block layer from merging neighbours. Linux's own AIO, without a library.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 64

static long check(long result, const char *name)
{
	if (result < 0) {
		perror(name);
		exit(1);
	}
	return result;
}

int main(int argc, char **argv)
{
	static struct iocb iocbs[MOST];
	struct iocb *list[MOST];
	struct io_event events[MOST];
	aio_context_t context = 0;

	if (argc != 7)
		return 2;
	int writing = *argv[2] == 'w';
	long bytes = atol(argv[3]), depth = atol(argv[4]), stride = atol(argv[5]), count = atol(argv[6]);
	int fd = check(open(argv[1], (writing ? O_WRONLY : O_RDONLY) | O_DIRECT), argv[1]);
	long blocks = check(lseek(fd, 0, SEEK_END), "lseek") / bytes;
	if (depth < 1 || depth > MOST || blocks < 1)
		return 2;

	char *buffer = aligned_alloc(4096, depth * bytes);
	if (!buffer)
		return 2;
	memset(buffer, 0x5a, depth * bytes);
	check(syscall(SYS_io_setup, depth, &context), "io_setup");
	for (long i = 0; i < depth; i++)
		list[i] = &iocbs[i];

	/* list: those to submit next; free to use again as they complete */
	for (long submitted = 0, done = 0, ready = depth; done < count;) {
		if (ready > count - submitted)
			ready = count - submitted;
		for (long i = 0; i < ready; i++, submitted++) {
			struct iocb *one = list[i];

			one->aio_lio_opcode = writing ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
			one->aio_fildes = fd;
			one->aio_buf = (uintptr_t)(buffer + (one - iocbs) * bytes);
			one->aio_nbytes = bytes;
			one->aio_offset = submitted * stride % blocks * bytes;
		}
		if (ready && check(syscall(SYS_io_submit, context, ready, list), "io_submit") != ready)
			return 1;
		ready = check(syscall(SYS_io_getevents, context, 1, depth, events, NULL), "io_getevents");
		for (long i = 0; i < ready; i++) {
			if (events[i].res != bytes) {
				fprintf(stderr, "%lld bytes of %ld\n", (long long)events[i].res, bytes);
				return 1;
			}
			list[i] = (struct iocb *)(uintptr_t)events[i].obj;
		}
		done += ready;
	}
	return 0;
}
