"""A trace of VMBus played again: the guest's side as recorded, the host's live, without KVM."""
