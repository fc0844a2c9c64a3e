"""The TLFS as code; only in_kernel.py and in_user.py know that KVM exists."""
