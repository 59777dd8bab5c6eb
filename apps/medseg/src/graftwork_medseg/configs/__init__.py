"""Configurations that ship with medseg."""
