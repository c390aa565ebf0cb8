"""`dataset_hash` checks from a defs.yaml."""
