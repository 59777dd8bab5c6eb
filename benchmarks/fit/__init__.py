"""A whole fine-tuning run, ours beside peft's: `python -m benchmarks.fit`."""
