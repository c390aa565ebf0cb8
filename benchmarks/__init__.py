"""What `make bench` measures: one question per file, each answered beside a peer in the same run."""
