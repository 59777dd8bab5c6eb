"""Start values read off the frozen weight: singular triplets, and a cache of them."""
