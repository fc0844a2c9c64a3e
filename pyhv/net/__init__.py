"""What is behind a network device: passt, a tap, a socket to another machine, nothing."""
