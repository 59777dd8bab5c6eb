"""When do detectors of contamination find what a fine-tuned language model has seen?"""
