"""Environments through the APIs of other libraries, one library per file."""
