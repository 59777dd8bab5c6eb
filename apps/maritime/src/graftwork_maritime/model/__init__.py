"""The language model: what it reads and writes, training data, training, generation."""
