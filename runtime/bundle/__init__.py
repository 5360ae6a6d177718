"""The bundle, which is the contract between export and runtime: its manifest, and how it lies on disk."""
