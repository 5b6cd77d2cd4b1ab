"""Finds the thresholds of a cascade on held-out data."""

from collections.abc import Sequence

import numpy as np

from keras_resadapt.inference.calibrating.temperature import fit_temperatures
from keras_resadapt.inference.calibrating.threshold_search import (
    ThresholdSearch,
)
from keras_resadapt.inference.storing.point_logits import PointLogits, softmax
from keras_resadapt.inference.storing.thresholds import MOST_SURE, Thresholds

METHODS = ("search", "geometric")


def calibrate(
    held_out: PointLogits,
    *,
    max_madds: float | None = None,
    max_ms: float | None = None,
    exit_ms: Sequence[float] | None = None,
    max_accuracy_loss: float | None = None,
    confidence: float = 0.95,
    method: str = "search",
    temperature_scaling: bool = False,
) -> Thresholds:
    """Finds thresholds for a budget, or for a promise of accuracy.

    Give exactly one of `max_madds`, `max_ms` and `max_accuracy_loss`.

    For a budget, the mean cost of the held-out images is at most that; on
    other data it is about that.

    For `max_accuracy_loss`, the thresholds save the most multiply-adds among
    those for which the accuracy loss against the last exit is at most that,
    with the given confidence over the draw of the held-out images (images must
    be drawn as those to come). Half of the images give a list of
    candidates, from dear to cheap, the other half tests them in this order
    until one fails (fixed-sequence testing; Angelopoulos et al., Learn then
    Test, 2021). The loss is the share of images that the last
    exit alone answers rightly less the share that the cascade alone does; the
    test takes the Clopper-Pearson upper bound of the first and the lower bound
    of the second, each at half of `1 - confidence`.

    Args:
        held_out: What `collect_logits` returns for a cascade, on images that
            it was not trained on.
        max_madds: Mean multiply-adds an image.
        max_ms: Mean milliseconds an image; needs `exit_ms`.
        exit_ms: Milliseconds that an image costs that leaves at each exit, as
            `measure_exit_latency` measures them.
        max_accuracy_loss: In (0, 1).
        confidence: Of the promise, in (0, 1).
        method: For a budget, not for a promise: `"search"`, the most accurate thresholds that a
            direct search finds, or `"geometric"`, MSDNet's rule.
        temperature_scaling: Fit a temperature an exit first; see
            `fit_temperatures`.

    Returns:
        The thresholds, with the fingerprint of the model.

    Raises:
        ValueError: For an argument out of its range, a budget below the first
            exit's cost or above the last one's, data that is empty, of a
            single class or not of a cascade, and for a promise that so few
            images cannot support.
    """
    _check(held_out, method)
    goals = (max_madds, max_ms, max_accuracy_loss)
    if sum(goal is not None for goal in goals) != 1:
        raise ValueError(
            "Give exactly one of `max_madds`, `max_ms` and "
            f"`max_accuracy_loss`. Received: {goals}"
        )
    if (exit_ms is None) != (max_ms is None):
        raise ValueError(
            "`max_ms` and `exit_ms`, the milliseconds of each exit on this "
            "machine, go together: `measure_exit_latency(model, batch_size)` "
            f"gives them. Received: max_ms={max_ms}, exit_ms={exit_ms}"
        )
    costs = np.array(held_out.madds, "float64")
    if max_accuracy_loss is not None:
        return _promise(
            held_out, costs, max_accuracy_loss, confidence, temperature_scaling
        )
    if max_ms is not None:
        costs = _check_exit_ms(exit_ms, len(costs))
    name, budget = ("max_madds", max_madds) if max_ms is None else ("max_ms", max_ms)
    if not costs[0] <= budget <= costs[-1]:
        raise ValueError(
            f"`{name}` must be from {costs[0]:g}, the first exit's cost, to "
            f"{costs[-1]:g}, the last one's. Received: {name}={budget}"
        )
    temperatures = _temperatures(held_out, temperature_scaling)
    search = _search(held_out, temperatures, costs)
    if method == "geometric":
        values = search.geometric(budget)
    else:
        values = search.search(budget, search.front())
    return Thresholds(tuple(values), temperatures, held_out.fingerprint)


def _promise(held_out, costs, max_loss, confidence, temperature_scaling):
    """The last thresholds of the sequence whose loss is surely small."""
    if not 0 < max_loss < 1:
        raise ValueError(
            "`max_accuracy_loss` must be in (0, 1). "
            f"Received: max_accuracy_loss={max_loss}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1). Received: {confidence}")
    # The images may be sorted.
    order = np.random.default_rng(0).permutation(len(held_out.labels))
    half = len(order) // 2
    proposing, testing = (held_out.take(rows) for rows in (order[:half], order[half:]))
    temperatures = _temperatures(proposing, temperature_scaling)
    candidates = _search(proposing, temperatures, costs).path()
    test = _search(testing, temperatures, costs)
    accepted = None
    for values in candidates:
        bound = _loss_bound(
            test.correct_under(values), test.correct[-1], 1 - confidence
        )
        if bound > max_loss:
            break
        accepted = values
    if accepted is None:
        raise ValueError(
            f"{len(held_out.labels)} images cannot support the promise: the "
            f"accuracy loss is at most {bound:.4f} with confidence "
            f"{confidence}, even where no image leaves early. Collect more "
            "images, or allow more. "
            f"Received: max_accuracy_loss={max_loss}"
        )
    return Thresholds(tuple(accepted), temperatures, held_out.fingerprint)


def _loss_bound(correct, correct_last, error) -> float:
    """An upper bound of the accuracy loss that holds but for a probability of
    `error`."""
    from scipy import stats

    number = len(correct)
    lost = np.sum(correct_last & ~correct)
    won = np.sum(correct & ~correct_last)
    most_lost = (
        stats.beta.ppf(1 - error / 2, lost + 1, number - lost) if lost < number else 1.0
    )
    least_won = stats.beta.ppf(error / 2, won, number - won + 1) if won else 0.0
    return float(most_lost - least_won)


def _temperatures(held_out, temperature_scaling):
    if temperature_scaling:
        return fit_temperatures(held_out)
    return (1.0,) * len(held_out.names)


def _search(held_out, temperatures, costs) -> ThresholdSearch:
    temperatures = np.array(temperatures, "float32")[:, None, None]
    confidence = softmax(held_out.logits / temperatures).max(axis=-1)
    return ThresholdSearch(
        np.minimum(confidence, np.float32(MOST_SURE)),
        held_out.correct,
        costs,
    )


def _check(held_out, method):
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {METHODS}. Received: method={method!r}"
        )
    held_out.check_cascade()
    classes = np.unique(held_out.labels)
    if len(classes) < 2:
        raise ValueError(
            "`held_out` must have images of several classes. Received: "
            f"{len(held_out.labels)} images of {len(classes)} classes"
        )


def _check_exit_ms(exit_ms, number) -> np.ndarray:
    costs = np.asarray(exit_ms, "float64")
    if (
        costs.shape != (number,)
        or not np.isfinite(costs).all()
        or not (np.diff(costs, prepend=0) > 0).all()
    ):
        raise ValueError(
            f"`exit_ms` must hold {number} increasing positive numbers, one "
            f"an exit. Received: exit_ms={exit_ms}"
        )
    return costs
