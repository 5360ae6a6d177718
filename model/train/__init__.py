"""Training: ``fctl-train``, its configuration, data, optimisation and validation."""
