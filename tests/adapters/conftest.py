"""The probes, whose programs compile in a second, are registered beside all environments."""

from probe_envs import register_probes

register_probes()
