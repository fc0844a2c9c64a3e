"""What tools/bench.py is made of: guests, the machines that run them, meters, and the rows."""
