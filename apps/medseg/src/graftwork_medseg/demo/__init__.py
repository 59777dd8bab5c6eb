"""The embedded default: simulated scans, the base trained on them, the demo and its report."""
