"""The bus of a Hyper-V machine and its devices; all of it runs on the event-loop thread."""
