"""The kernel of a pair, traced: what two particles contribute to each other."""

from collections.abc import Callable, Sequence

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun  # pyright: ignore[reportPrivateImportUsage]

from dmdenv._core.varying import unchecked
from dmdenv.neighbors.particles_last import Mapped, Value, evaluate


class Kernel:
    """A function `(shared, x_i, x_j) -> (y_i, y_j)` on flat lists: what a pair contributes to both of its particles.

    y_j is y_i with the particles exchanged: where the two are related, they are computed together, once per pair.
    Compared by identity, as jaxprs are.
    """

    def __init__(self, jaxpr: ClosedJaxpr, shared: int, features: int):
        self.jaxpr, self.shared, self.features = jaxpr, shared, features
        self.outputs = len(jaxpr.out_avals) // 2  # to each particle

    @classmethod
    def trace(cls, pair: Callable, shared: Sequence, features: Sequence) -> "Kernel":
        """Trace `pair(shared, x_i, x_j)` on the shapes of the shared values and of one particle's features."""
        with unchecked():
            jaxpr = jax.make_jaxpr(pair)(*([shape_of(a) for a in avals] for avals in (shared, features, features)))
        return cls(jaxpr, len(shared), len(features))

    def __call__(self, shared: Sequence, xi: Sequence, xj: Sequence) -> tuple[list, list]:
        out = jaxpr_as_fun(self.jaxpr)(*shared, *xi, *xj)
        return out[: self.outputs], out[self.outputs :]

    def evaluate(
        self,
        shared: Sequence[Value],
        xi: Sequence[Value],
        xj: Sequence[Value],
        particles: tuple[int, ...],
        *,
        both: bool,
        store: Callable[[jax.Array], jax.Array] = lambda array: array,
    ) -> list[Mapped]:
        """What many pairs contribute to their first particles or, one list after the other, to `both`."""
        outputs = slice(None) if both else slice(self.outputs)
        return evaluate(self.jaxpr, [*shared, *xi, *xj], particles, outputs=outputs, store=store)

    @property
    def shared_avals(self) -> list:
        return list(self.jaxpr.in_avals[: self.shared])

    @property
    def feature_avals(self) -> list:
        return list(self.jaxpr.in_avals[self.shared : self.shared + self.features])

    @property
    def out_avals(self) -> list:
        return list(self.jaxpr.out_avals[: self.outputs])

    def __repr__(self) -> str:
        return str(self.jaxpr)


def shape_of(aval) -> jax.ShapeDtypeStruct:
    """Shape and type of an array or of what stands for one."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
