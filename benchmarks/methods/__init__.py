"""One small honest experiment for each method."""
