"""Classes of growth, and the check of measured costs against them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

LEAST_MS = 0.05
"""Costs below this are noise: they count as this much."""


class Growth(Enum):
    """The cost of a route against the size of the data, with the largest exponent that is accepted.

    A cost of `size ** 0.2` grows to 1.6 times between two sizes that are a factor of ten apart. A route of constant
    cost stays below it on a busy machine; one that reads every row exceeds it as soon as its rows cost as much as
    the request itself.
    """

    CONSTANT = ("constant", 0.2)
    LOGARITHMIC = ("logarithmic", 0.3)
    LINEAR = ("linear", 1.2)

    def __init__(self, label: str, most: float) -> None:
        self.label = label
        self.most = most


@dataclass(frozen=True, slots=True)
class Fitted:
    """Exponents of a cost: by least squares over all sizes, and between the two largest."""

    overall: float
    latest: float

    @property
    def slope(self) -> float:
        """The larger one. Behind the fixed cost of a request, growth shows at the largest sizes first."""
        return max(self.overall, self.latest)


def fitted(sizes: Sequence[int], costs: Sequence[float]) -> Fitted:
    """Fit `cost = factor * size ** exponent` to measured costs, on logarithmic axes.

    Raises:
        ValueError: there are less than three sizes.
    """
    if len(sizes) < 3 or len(sizes) != len(costs):
        raise ValueError("A slope needs the costs of three sizes at least.")
    x = [math.log(size) for size in sizes]
    y = [math.log(max(cost, LEAST_MS)) for cost in costs]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    overall = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - middle_x) ** 2 for a in x
    )
    return Fitted(overall, (y[-1] - y[-2]) / (x[-1] - x[-2]))


def exceeds(growth: Growth, sizes: Sequence[int], costs: Sequence[float]) -> bool:
    """Return True if measured costs grow faster than their class."""
    return fitted(sizes, costs).slope > growth.most
