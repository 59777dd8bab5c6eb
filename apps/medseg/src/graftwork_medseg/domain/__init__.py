"""Bases trained from public data sets: plans, batches, the training loop, cards."""
