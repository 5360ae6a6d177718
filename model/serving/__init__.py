"""A network as the runtime sees it: its draft of a manifest, and the module behind the runtime's `Network`."""
