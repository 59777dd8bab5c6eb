"""What a graft costs on a large model beside its training: `python -m benchmarks.big`."""
