"""One real language model on one real task: SmolLM2-135M writes behaviour trees from instructions."""
