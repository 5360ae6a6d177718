"""Data and settings behind shipped models."""
