"""The client side of `hartonomous ingest` and `query`: files on disk become documents in a collection.

`walk` finds files (`globs`, `naming`), `content` reads them, `sender` sends them through `client` (lines in one stream,
uploads beside it) and bears the `faults` of the way, `prune` tells what is gone from disk, `watch` waits for changes;
`tally` counts, `progress` shows it, `passes` puts them together. `reading` shows an answer and its sources.
"""
