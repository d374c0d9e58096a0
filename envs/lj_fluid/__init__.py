"""A Lennard-Jones fluid in a heat bath: tasks `anneal`, `drag`."""
