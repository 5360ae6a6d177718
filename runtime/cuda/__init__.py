"""CUDA without a framework: a GPU's memory, streams and kernels, and arrays that stay on it.

Nothing here is imported on machines without a GPU, and nothing imports a CUDA library before a device is asked for.
"""
