"""Measurements of the maritime app."""
