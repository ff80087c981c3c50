"""What Hartonomous costs, against bare programs that do the same: `python -m tests.bench`, `make bench`."""
