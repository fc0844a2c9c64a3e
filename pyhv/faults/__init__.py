"""Faults on the bus: rules by which a test has things go lost, come late, or be refused."""
