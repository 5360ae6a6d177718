"""A network as the runtime sees it: the draft of its manifest, and the module behind the runtime's `Network`."""
