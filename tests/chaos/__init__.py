"""Mixed load against the real application while its backends fail at random: `python -m tests.chaos`, `make chaos`."""
