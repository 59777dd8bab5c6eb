"""A training pass as recorded CUDA graphs: who may be recorded, how long it holds, what a call does."""
