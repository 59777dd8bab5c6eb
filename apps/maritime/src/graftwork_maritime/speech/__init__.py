"""Dialogues as sound: a speech engine, and what a VHF channel does to a voice; for training, never for transmission."""
