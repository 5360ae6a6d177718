"""The FCtL network in PyTorch, and its training."""
