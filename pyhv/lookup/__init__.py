"""Commands that look things up: explain, caps, doctor, cpuid, audit; ``run`` imports none."""
