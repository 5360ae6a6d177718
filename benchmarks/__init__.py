"""Programs that measure fctl on the machine at hand, run from the root of a checkout: python -m benchmarks.NAME."""
