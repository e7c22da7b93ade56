"""The second door: Prefect runs DVC's graph. When, where, how often to try; never what is stale."""
