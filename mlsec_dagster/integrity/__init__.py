"""Digests, manifests, statements, the signed ledger and the verdicts over them. Knows no Dagster; importing it loads nothing heavy."""
