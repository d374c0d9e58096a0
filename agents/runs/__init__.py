"""The run folder: what a training writes, and how it is read again."""
