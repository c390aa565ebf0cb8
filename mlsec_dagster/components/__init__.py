"""The same things as YAML, for projects that `dg` manages."""
