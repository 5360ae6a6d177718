"""Where finished files are put so that others find them: a folder, or a store that is reached over a network."""
