"""What a training step costs over the frozen floor, in turns in one process: `python -m benchmarks.speed`."""
