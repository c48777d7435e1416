"""What repeated tokens, and parameters beyond those that the unique ones ask for, are worth (Muennighoff et al. 2023).

x' = b·(1 + R·(1 − exp(−(x/b − 1)/R))): the first b count whole, all more together never as R times as many.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MAX_LOG_RATIO = 50.0
"""Beyond it nothing is added, and e to that power overflows where a search strays."""


def worth(log_x_n: Floats, log_base_n: Floats, rate: Floats) -> tuple[Floats, Floats, Floats]:
    """log x' at log x ≥ log b, and its derivatives by log R and by log b, all of shape [n]; R of shape [1]."""
    ratio_n = np.exp(np.minimum(log_x_n - log_base_n, MAX_LOG_RATIO))
    share_n = (ratio_n - 1) / rate
    decay_n = np.exp(-share_n)
    worth_n = 1 - rate * np.expm1(-share_n)
    by_rate_n = rate * (-np.expm1(-share_n) - share_n * decay_n) / worth_n
    return log_base_n + np.log(worth_n), by_rate_n, 1 - decay_n * ratio_n / worth_n


def optimal_size(law: Mapping[str, Floats], log_tokens_n: Floats) -> tuple[Floats, dict[str, Floats]]:
    """log N at which so many tokens are compute-optimal, where α·A/N^α = β·B/D^β, and its derivatives by `law`.

    `law` has log A and log B and the exponents, of shape [1] each, everything about the same centre.
    """
    alpha, beta = law["alpha"], law["beta"]
    log_n = (np.log(alpha / beta) + law["A"] - law["B"] + beta * log_tokens_n) / alpha
    return log_n, {
        "A": 1 / alpha,
        "B": -1 / alpha,
        "alpha": (1 / alpha - log_n) / alpha,
        "beta": (log_tokens_n - 1 / beta) / alpha,
    }
