"""The `mnasnet` command."""
