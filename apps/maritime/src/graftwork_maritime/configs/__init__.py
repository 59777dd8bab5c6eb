"""Configurations that ship with maritime."""
