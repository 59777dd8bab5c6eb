"""A small app with a causal language model, for the tests of shared runs."""
