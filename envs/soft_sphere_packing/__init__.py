"""Packings of soft spheres: tasks `compress`, `design`."""
