"""Weights on disk: checkpoints of fctl, and the layouts in which others publish theirs."""
