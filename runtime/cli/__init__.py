"""The command lines of the runtime: ``fctl-run``, ``fctl-info`` and ``fctl-eval``."""
