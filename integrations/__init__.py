"""fctl inside other programs: examples that run as they are, and plugins."""
