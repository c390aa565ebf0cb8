"""Scheduled jobs: the upkeep of the audit trail."""
