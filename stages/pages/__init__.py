"""Self-contained HTML pages: one file each, which opens offline and asks nothing of any machine."""
