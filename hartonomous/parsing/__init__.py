"""Files to text in processes that can be killed: `parser` is what the server uses, `worker` what they run."""
