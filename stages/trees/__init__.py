"""Examples behind the same picture become one tree: tokens, masks and positions, and the proof that they are right."""
