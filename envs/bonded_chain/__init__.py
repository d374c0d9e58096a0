"""Chains of beads: tasks `reach`, `swim`, `fold`."""
