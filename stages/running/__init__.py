"""A stage as a command: its params, its paths, outputs whole or absent, progress, tracking."""
