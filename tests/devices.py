"""Functions whose arguments are divided among two devices, which `tests/conftest.py` makes of the processor."""

import jax
from jax.sharding import PartitionSpec

DIVIDED, SHARED = PartitionSpec("device"), PartitionSpec()


def on_devices(function, *, in_specs=DIVIDED, out_specs=DIVIDED):
    auto = (jax.sharding.AxisType.Auto,)  # JAX 0.12 has explicit axes by default
    mesh = jax.make_mesh((2,), ("device",), axis_types=auto, devices=jax.devices("cpu")[:2])
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs))
