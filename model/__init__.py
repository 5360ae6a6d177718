"""The FCtL network in PyTorch; its subpackages hold its weights, its training and its serving."""
