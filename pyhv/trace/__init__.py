"""The tracer: what a guest does to its machine, exit by exit, in names and decoded fields."""
