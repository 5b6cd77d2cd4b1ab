"""Search for the thresholds with the best accuracy at a cost."""

import dataclasses
from collections.abc import Sequence

import numpy as np

_STEPS = 200  # the most thresholds that a line search tries
_ROUNDS = 10
_SLOPES = np.geomspace(1e-3, 1e1, 41)
_BUDGETS = 21


def first_confident_exit(confidence: np.ndarray, values: Sequence[float]) -> np.ndarray:
    """Returns the exit of each image (RANet, equation 2).

    Args:
        confidence: The result of `storing.confidence.confidence`, float32 of
            shape (exits, images).
        values: A threshold for each exit but the last.

    Returns:
        int32 of shape (images,).
    """
    confident = confidence[:-1] >= np.array(values, "float32")[:, None]
    always = np.ones((1, confidence.shape[1]), bool)
    return np.concatenate([confident, always]).argmax(axis=0).astype("int32")


@dataclasses.dataclass(frozen=True)
class ThresholdSearch:
    """Held-out images on which thresholds are evaluated.

    Attributes:
        confidence: The result of `storing.confidence.confidence`, float32 of
            shape (exits, images).
        correct: Whether each exit's prediction is correct, bool of shape
            (exits, images).
        costs: The cost of an image for each exit at which it can stop, of
            shape (exits,); increasing.
    """

    confidence: np.ndarray
    correct: np.ndarray
    costs: np.ndarray

    @property
    def _images(self) -> np.ndarray:
        return np.arange(self.confidence.shape[1])

    def correct_under(self, values: Sequence[float]) -> np.ndarray:
        """Returns which images are classified correctly, bool (images,)."""
        exits = first_confident_exit(self.confidence, values)
        return self.correct[exits, self._images]

    def cost_under(self, values: Sequence[float]) -> float:
        """Returns the mean cost per image."""
        return float(self.costs[first_confident_exit(self.confidence, values)].mean())

    # === MSDNet's rule ===

    def geometric(self, budget: float) -> list[float]:
        """Returns thresholds for which the exits' shares form a geometric series.

        A share of the images proportional to `ratio ** k` exits at exit k,
        from 0: the most confident of the images that reach it. The ratio is
        the largest for which the mean cost is within the budget (Huang et al.,
        Multi-Scale Dense Networks, ICLR 2018).
        """
        low, high = -30.0, 30.0  # bounds of the logarithm of the ratio
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
        # Rounding the cumulative sums, not the shares, keeps their total.
        ends = np.rint(shares.cumsum() * self.confidence.shape[1]).astype(int)
        reaching, values = self._images, []
        for confidence, count in zip(self.confidence[:-1], np.diff(ends, prepend=0)):
            values.append(_threshold(confidence[reaching], count))
            remaining = confidence[reaching] < np.float32(values[-1])
            reaching = reaching[remaining]
        return values

    # === Direct search ===

    def front(self) -> list[list[float]]:
        """Returns lists of thresholds, the most expensive first.

        Each list maximizes `accuracy - slope * cost / last exit's cost` for
        one slope, by coordinate ascent over the thresholds.
        """
        values = [1.0] * (len(self.costs) - 1)
        found = [values]
        for slope in _SLOPES:
            values = self._ascend(values, slope / self.costs[-1])
            if values != found[-1]:
                found.append(values)
        return sorted(found, key=self.cost_under, reverse=True)

    def path(self) -> list[list[float]]:
        """Returns the front and thresholds for budgets, most expensive first."""
        front = self.front()
        budgets = np.linspace(self.costs[0], self.costs[-1], _BUDGETS)
        found = front + [self.search(budget, front) for budget in budgets]
        return sorted(found, key=self.cost_under, reverse=True)

    def search(self, budget: float, front: Sequence[list[float]]) -> list[float]:
        """Returns the most accurate thresholds found within a budget.

        They are at least as accurate as the front and the geometric rule.

        Args:
            budget: The largest mean cost per image.
            front: The result of `front()`.
        """
        starts = [v for v in front if self.cost_under(v) <= budget]
        starts = starts[:1] + [self.geometric(budget)]
        ends = [self._ascend(values, 0.0, budget) for values in starts]
        return max(
            ends,
            key=lambda v: (self.correct_under(v).mean(), -self.cost_under(v)),
        )

    def _ascend(self, values, slope, budget=np.inf) -> list[float]:
        """Improves one threshold at a time until none changes."""
        values = list(values)
        for _ in range(_ROUNDS):
            before = list(values)
            for exit in range(len(values)):
                values[exit] = self._line_search(values, exit, slope, budget)
            if values == before:
                break
        return values

    def _line_search(self, values, exit, slope, budget) -> float:
        """Returns the best threshold of one exit, with the others fixed."""
        number = self.confidence.shape[1]
        exits = first_confident_exit(
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
        # Indexed by the number of images that stop at this exit, from 0
        gain, saving = (np.append(0, np.cumsum(x)) for x in (gain, saving))
        cost = self.costs[exits].mean() - saving / number

        ordered = self.confidence[exit, order]
        # No threshold separates images of equal confidence.
        counts = np.flatnonzero(ordered[:-1] > ordered[1:]) + 1
        counts = np.union1d(counts, [0, len(order)])
        steps = np.linspace(0, len(counts) - 1, min(_STEPS, len(counts)))
        # With the current threshold as a candidate, the score cannot decrease.
        old = int(np.sum(confidence >= np.float32(values[exit])))
        counts = np.union1d(counts[np.rint(steps).astype(int)], [old])
        counts = counts[cost[counts] <= budget]
        if not len(counts):
            return values[exit]
        score = gain[counts] / number - slope * cost[counts]
        # Among equal scores, the cheapest
        best = counts[np.lexsort((cost[counts], -score.round(12)))[0]]
        # An equivalent threshold must not replace the current one, or the
        # ascent would not end.
        return values[exit] if best == old else _threshold(confidence, best)


def _threshold(confidence: np.ndarray, count: int) -> float:
    """Returns the threshold that the most confident `count` images reach.

    More images reach it if several have the same confidence.
    """
    if count >= len(confidence):
        return 0.0
    if count <= 0:
        return 1.0
    ordered = np.sort(confidence)[::-1]
    # Half way between two images, rounding moves neither across.
    return float((float(ordered[count - 1]) + float(ordered[count])) / 2)
