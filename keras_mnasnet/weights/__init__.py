"""Checkpoints: records of every public one, fetching, and reading and writing their files."""
