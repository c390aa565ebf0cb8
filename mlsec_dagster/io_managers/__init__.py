"""The wrapper that `guard` puts around IO managers: sealed at write, verified at read."""
