"""Half an hour of mixed load in which nothing may grow: `python -m tests.soak`, `make soak`."""
