"""Comparisons of speed. Run from the repository root: `python -m benchmarks.batched_forces`, or all: `make bench`."""
