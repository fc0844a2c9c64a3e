"""``pyhv shell``: a prompt at which a paused machine is looked into, stepped and let run."""
