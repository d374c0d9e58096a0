"""Flocks of boids: tasks `align`, `shepherd`, `evade`."""
