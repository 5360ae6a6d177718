"""The command line ``fctl-export``."""
