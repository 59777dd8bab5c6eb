"""One small honest experiment for each method: what its paper expects, and what was measured here."""
