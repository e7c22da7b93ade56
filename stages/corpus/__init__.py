"""The records of the data half, and how they lie in Parquet: examples, images, the ledger; what the contract sees of them."""
