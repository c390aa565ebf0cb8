"""`expectations` checks from a defs.yaml."""
