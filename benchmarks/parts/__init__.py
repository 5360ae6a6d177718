"""What the benchmarks share, and the parts of `benchmarks.gpu_check`."""
