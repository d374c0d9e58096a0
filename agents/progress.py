"""The progress bar that all long loops share."""

from dmdenv.progress import progress

__all__ = ["progress"]
