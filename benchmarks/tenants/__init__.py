"""Many tasks on one backbone, and many adapters in one batch."""
