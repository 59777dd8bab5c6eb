"""Few-shot adaptation: who trains and who tests, what is trained, and whether to use the result."""
