"""Assets of our own: the audit trail."""
