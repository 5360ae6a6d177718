"""Real patches to verify and calibrate with. Never imports torch."""
