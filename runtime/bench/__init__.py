"""What runs over a file take, by stage, for several bundles and engines side by side."""
