"""Adapters for other programs: thin, one file each. None imports another."""
