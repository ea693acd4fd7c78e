"""Checkpoints: records of the published ones, fetching, and reading and writing their files."""
