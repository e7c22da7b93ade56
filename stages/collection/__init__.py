"""The embedded collection: scenes with known facts, what is asked of them, and the upstream formats they are written in."""
