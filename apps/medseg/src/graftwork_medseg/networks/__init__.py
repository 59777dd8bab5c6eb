"""Networks and their weights: ours, MONAI bundles, state dicts, nnU-Net results folders."""
