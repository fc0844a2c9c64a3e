"""KVM through ctypes: everything below this folder speaks linux/kvm.h and nothing of Hyper-V."""
