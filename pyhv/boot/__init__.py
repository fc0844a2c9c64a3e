"""Ways to give a fresh machine something to run, and the ACPI tables that describe it."""
