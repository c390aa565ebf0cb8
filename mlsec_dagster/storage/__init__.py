"""Tables, migrations and connections. Knows nothing of Dagster and nothing of signatures."""
