"""Audit logs from a defs.yaml."""
