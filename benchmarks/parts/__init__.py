"""What the benchmarks share, and the parts of gpu_check.py."""
