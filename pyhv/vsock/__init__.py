"""Streams to and from the guest over hv_sock, as sockets of this host."""
