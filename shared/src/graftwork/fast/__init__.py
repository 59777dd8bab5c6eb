"""Faster forms of what the algebra defines: the same functions, fewer bytes moved, less kept for backward."""
