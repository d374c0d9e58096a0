"""Search for the parameters that minimise an objective: by its gradient, by CMA-ES or at random, from many starts."""

from dmdenv.search.minimize import minimize
from dmdenv.search.result import SearchResult

__all__ = ["SearchResult", "minimize"]
