"""A slot extractor that learns from composed dialogues alone, measured on dialogues that nobody composed."""
