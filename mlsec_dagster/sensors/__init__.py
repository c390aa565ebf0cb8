"""Sensors, and what they ask of a Dagster instance: where its assets lie, so that an access to a file is one to an asset."""
