"""Which thresholds give which accuracy at which cost."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_resadapt.inference.storing.thresholds import MOST_SURE

_STEPS = 200  # thresholds that a line search tries
_ROUNDS = 10
_SLOPES = np.geomspace(1e-3, 1e1, 41)
_BUDGETS = 21


def first_sure_exit(confidence: np.ndarray, values: Sequence[float]) -> np.ndarray:
    """The exit at which each image leaves (RANet, equation 2).

    Args:
        confidence: float32 of shape (exits, images).
        values: A threshold an exit but the last.

    Returns:
        int32 of shape (images,).
    """
    confidence = np.minimum(confidence[:-1], np.float32(MOST_SURE))
    sure = confidence >= np.array(values, "float32")[:, None]
    always = np.ones((1, confidence.shape[1]), bool)
    return np.concatenate([sure, always]).argmax(axis=0).astype("int32")


@dataclasses.dataclass(frozen=True)
class ThresholdSearch:
    """Held-out images, on which thresholds are tried.

    Attributes:
        confidence: float32 of shape (exits, images), at most `MOST_SURE`.
        correct: bool of shape (exits, images).
        costs: What an image costs that leaves at each exit; increasing.
    """

    confidence: np.ndarray
    correct: np.ndarray
    costs: np.ndarray

    @property
    def _images(self) -> np.ndarray:
        return np.arange(self.confidence.shape[1])

    def correct_under(self, values: Sequence[float]) -> np.ndarray:
        """Which images are answered rightly, bool of shape (images,)."""
        exits = first_sure_exit(self.confidence, values)
        return self.correct[exits, self._images]

    def cost_under(self, values: Sequence[float]) -> float:
        """The mean cost of an image."""
        return float(self.costs[first_sure_exit(self.confidence, values)].mean())

    # === MSDNet's rule ===

    def geometric(self, budget: float) -> list[float]:
        """Thresholds for which the exits' shares are a geometric series.

        Exit k, from 0, has a share of the images proportional to `ratio ** k`:
        those of the images that reach it about which it is most confident. The
        ratio is the largest for which the mean cost is within the budget
        (Huang et al., Multi-Scale Dense Networks, ICLR 2018).
        """
        low, high = -30.0, 30.0  # of the ratio's logarithm
        best = self._of_ratio(low)
        for _ in range(50):
            middle = (low + high) / 2
            values = self._of_ratio(middle)
            if self.cost_under(values) <= budget:
                low, best = middle, values
            else:
                high = middle
        return best

    def _of_ratio(self, log_ratio) -> list[float]:
        powers = log_ratio * np.arange(len(self.costs))
        shares = np.exp(powers - powers.max())
        shares /= shares.sum()
        # Rounding the sums keeps the numbers' sum.
        ends = np.rint(shares.cumsum() * self.confidence.shape[1]).astype(int)
        reaching, values = self._images, []
        for confidence, leaving in zip(self.confidence[:-1], np.diff(ends, prepend=0)):
            values.append(_threshold(confidence[reaching], leaving))
            staying = confidence[reaching] < np.float32(values[-1])
            reaching = reaching[staying]
        return values

    # === Direct search ===

    def front(self) -> list[list[float]]:
        """Thresholds from dear and accurate to cheap.

        Each maximizes `accuracy - slope * cost / last exit's cost` for a
        slope, one threshold after the other, again and again until none
        changes.
        """
        values = [1.0] * (len(self.costs) - 1)
        found = [values]
        for slope in _SLOPES:
            values = self._ascend(values, slope / self.costs[-1])
            if values != found[-1]:
                found.append(values)
        return sorted(found, key=self.cost_under, reverse=True)

    def path(self) -> list[list[float]]:
        """The front, and thresholds for budgets in between, dearest first."""
        front = self.front()
        budgets = np.linspace(self.costs[0], self.costs[-1], _BUDGETS)
        found = front + [self.search(budget, front) for budget in budgets]
        return sorted(found, key=self.cost_under, reverse=True)

    def search(self, budget: float, front: Sequence[list[float]]) -> list[float]:
        """The most accurate thresholds found whose mean cost is within the
        budget: never less accurate than the front and the geometric rule."""
        starts = [v for v in front if self.cost_under(v) <= budget]
        starts = starts[:1] + [self.geometric(budget)]
        ends = [self._ascend(values, 0.0, budget) for values in starts]
        return max(
            ends,
            key=lambda v: (self.correct_under(v).mean(), -self.cost_under(v)),
        )

    def _ascend(self, values, slope, budget=np.inf) -> list[float]:
        """Improves one threshold after the other, until none changes."""
        values = list(values)
        for _ in range(_ROUNDS):
            before = list(values)
            for exit in range(len(values)):
                values[exit] = self._line_search(values, exit, slope, budget)
            if values == before:
                break
        return values

    def _line_search(self, values, exit, slope, budget) -> float:
        """The best threshold of an exit, the others as they are."""
        number = self.confidence.shape[1]
        exits = first_sure_exit(
            self.confidence, [*values[:exit], np.inf, *values[exit + 1 :]]
        )
        reaching = np.flatnonzero(exits > exit)
        if not len(reaching):
            return values[exit]
        confidence = self.confidence[exit, reaching]
        order = reaching[np.argsort(-confidence, kind="stable")]
        gain = (
            self.correct[exit, order].astype("float64")
            - self.correct[exits[order], order]
        )
        saving = self.costs[exits[order]] - self.costs[exit]
        # By the number of images that leave here, from none to all
        gain, saving = (np.append(0, np.cumsum(x)) for x in (gain, saving))
        cost = self.costs[exits].mean() - saving / number

        ordered = self.confidence[exit, order]
        # Not between images of the same confidence
        leaving = np.flatnonzero(ordered[:-1] > ordered[1:]) + 1
        leaving = np.union1d(leaving, [0, len(order)])
        steps = np.linspace(0, len(leaving) - 1, min(_STEPS, len(leaving)))
        # The threshold as it is is a candidate: nothing gets worse.
        old = int(np.sum(confidence >= np.float32(values[exit])))
        leaving = np.union1d(leaving[np.rint(steps).astype(int)], [old])
        leaving = leaving[cost[leaving] <= budget]
        if not len(leaving):
            return values[exit]
        score = gain[leaving] / number - slope * cost[leaving]
        # The cheapest of equals
        best = leaving[np.lexsort((cost[leaving], -score.round(12)))[0]]
        new = _threshold(confidence, best)
        # Not for nothing: it would go round in circles.
        return values[exit] if best == old else new


def _threshold(confidence: np.ndarray, leaving: int) -> float:
    """The threshold at which so many images leave, the most confident ones;
    more where several have the same confidence."""
    if leaving >= len(confidence):
        return 0.0
    if leaving <= 0:
        return 1.0
    ordered = np.sort(confidence)[::-1]
    # In the middle, so that rounding takes no image across.
    return float((float(ordered[leaving - 1]) + float(ordered[leaving])) / 2)
