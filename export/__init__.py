"""Turning a checkpoint into a bundle. Imports the other folders; nothing imports it."""
