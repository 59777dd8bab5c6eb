"""Optimizers that know what a graft's tensors are: LoFT, LoFT (simple), LoRA+."""
