"""A gdb server: the machine as gdb's remote target, a thread for each vCPU."""
