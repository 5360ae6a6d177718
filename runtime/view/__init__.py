"""Masks and images on a map in a browser: a local server, its page, and a page that needs no server."""
