"""The one training loop behind `connect`, `train` and `align`."""
