"""The command lines of the runtime: ``fctl-run``, ``fctl-info`` and ``fctl-eval``, and ``fctl``, which has them all."""
