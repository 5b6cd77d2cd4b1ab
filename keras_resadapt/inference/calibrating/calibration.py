"""Thresholds of a cascade from held-out data."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from keras_resadapt.inference.calibrating.temperature import fit_temperatures
from keras_resadapt.inference.calibrating.threshold_search import ThresholdSearch
from keras_resadapt.inference.storing.confidence import confidence as confidence_of
from keras_resadapt.inference.storing.confidence import softmax
from keras_resadapt.inference.storing.point_logits import PointLogits
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.number_checks import check_number

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
    """Finds thresholds for a budget, or for a bound on the accuracy loss.

    Exactly one of `max_madds`, `max_ms` and `max_accuracy_loss` is required.

    With a budget, the mean cost of the held-out images is within the budget.
    On other data from the same distribution, the mean cost is close to it.

    With `max_accuracy_loss`, the accuracy loss against the last exit is at
    most that, with the given confidence over the draw of the held-out images,
    which must come from the same distribution as future images. Among the
    thresholds that satisfy the bound, the cheapest ones found are returned.
    The method is fixed-sequence testing (Angelopoulos et al., Learn then Test,
    2021): half of the images propose a sequence of thresholds, the most
    expensive first. The other half tests the sequence until the bound fails.
    The accuracy loss is the share of images that only the last exit classifies
    correctly, minus the share that only the cascade does. The test uses the
    upper Clopper-Pearson bound of the first share and the lower bound of the
    second share, each with half of the error `1 - confidence`.

    Args:
        held_out: The result of `collect_logits` for a cascade, on images that
            it was not trained on.
        max_madds: Mean multiply-adds per image.
        max_ms: Mean milliseconds per image; needs `exit_ms`.
        exit_ms: Milliseconds of an image for each exit at which it can stop,
            for example from `measure_exit_latency`.
        max_accuracy_loss: The largest accuracy loss, in (0, 1).
        confidence: The confidence of the bound on the accuracy loss, in (0, 1).
        method: How thresholds for a budget are found: `"search"` for the most
            accurate thresholds of a direct search, `"geometric"` for the rule
            of MSDNet. Has no influence with `max_accuracy_loss`.
        temperature_scaling: Whether to fit a temperature for each exit first;
            see `fit_temperatures`.

    Returns:
        The thresholds, with the fingerprint of the model.

    Raises:
        ValueError: If an argument is outside its range; if the budget is below
            the cost of the first exit or above that of the last exit; if the
            data is empty, has a single class or is not from a cascade; or if
            there are too few images for the bound on the accuracy loss.
    """
    _check_held_out(held_out)
    _check_goal(max_madds, max_ms, exit_ms, max_accuracy_loss, method)
    if max_accuracy_loss is not None:
        return _bound_accuracy_loss(
            held_out, max_accuracy_loss, confidence, temperature_scaling
        )
    costs = np.array(held_out.madds, "float64")
    if max_ms is not None:
        costs = _check_exit_ms(exit_ms, len(costs))
        budget = _check_budget(max_ms, "max_ms", costs)
    else:
        budget = _check_budget(max_madds, "max_madds", costs)
    temperatures = _temperatures(held_out, temperature_scaling)
    search = _search(held_out, temperatures, costs)
    if method == "geometric":
        values = search.geometric(budget)
    else:
        values = search.search(budget, search.front())
    return Thresholds(tuple(values), temperatures, held_out.fingerprint)


# === Bound on the accuracy loss ===


def _bound_accuracy_loss(held_out, max_loss, confidence, temperature_scaling):
    """Returns the last thresholds of the sequence that pass the test."""
    if not 0 < max_loss < 1:
        raise ValueError(
            "`max_accuracy_loss` must be in (0, 1). "
            f"Received: max_accuracy_loss={max_loss}"
        )
    if not 0 < confidence < 1:
        raise ValueError(
            f"`confidence` must be in (0, 1). Received: confidence={confidence}"
        )
    # Shuffled, because the images may be sorted.
    order = np.random.default_rng(0).permutation(len(held_out.labels))
    half = len(order) // 2
    proposing, testing = (held_out.take(rows) for rows in (order[:half], order[half:]))
    costs = np.array(held_out.madds, "float64")
    temperatures = _temperatures(proposing, temperature_scaling)
    candidates = _search(proposing, temperatures, costs).path()
    test = _search(testing, temperatures, costs)
    accepted = None
    for values in candidates:
        bound = _upper_loss_bound(
            test.correct_under(values), test.correct[-1], 1 - confidence
        )
        if bound > max_loss:
            break
        accepted = values
    if accepted is None:
        raise ValueError(
            f"{len(held_out.labels)} images cannot support the bound on the "
            f"accuracy loss: with confidence {confidence}, the loss is at most "
            f"{bound:.4f} even if no image exits early. Use more images or a "
            f"larger bound. Received: max_accuracy_loss={max_loss}"
        )
    return Thresholds(tuple(accepted), temperatures, held_out.fingerprint)


def _upper_loss_bound(correct, correct_last, error) -> float:
    """Returns an upper confidence bound of the accuracy loss.

    Args:
        correct: Which images the cascade classifies correctly, bool (images,).
        correct_last: Which images the last exit classifies correctly.
        error: The probability with which the bound may fail.
    """
    number = len(correct)
    lost = np.sum(correct_last & ~correct)
    won = np.sum(correct & ~correct_last)
    most_lost = (
        stats.beta.ppf(1 - error / 2, lost + 1, number - lost) if lost < number else 1.0
    )
    least_won = stats.beta.ppf(error / 2, won, number - won + 1) if won else 0.0
    return float(most_lost - least_won)


# === Common parts ===


def _temperatures(held_out, temperature_scaling) -> tuple[float, ...]:
    if temperature_scaling:
        return fit_temperatures(held_out)
    return (1.0,) * len(held_out.names)


def _search(held_out, temperatures, costs) -> ThresholdSearch:
    temperatures = np.array(temperatures, "float32")[:, None, None]
    probabilities = softmax(held_out.logits / temperatures)
    return ThresholdSearch(confidence_of(probabilities), held_out.correct, costs)


# === Validation ===


def _check_held_out(held_out) -> None:
    held_out.check_cascade()
    classes = np.unique(held_out.labels)
    if len(classes) < 2:
        raise ValueError(
            "`held_out` must have images of several classes. Received: "
            f"{len(held_out.labels)} images of {len(classes)} classes"
        )


def _check_goal(max_madds, max_ms, exit_ms, max_accuracy_loss, method) -> None:
    goals = (max_madds, max_ms, max_accuracy_loss)
    if sum(goal is not None for goal in goals) != 1:
        raise ValueError(
            "Exactly one of `max_madds`, `max_ms` and `max_accuracy_loss` must be "
            f"given. Received: max_madds={max_madds}, max_ms={max_ms}, "
            f"max_accuracy_loss={max_accuracy_loss}"
        )
    if (exit_ms is None) != (max_ms is None):
        raise ValueError(
            "`max_ms` and `exit_ms` must be given together. "
            "`measure_exit_latency(model, batch_size)` returns the milliseconds "
            "of each exit on this machine. "
            f"Received: max_ms={max_ms}, exit_ms={exit_ms}"
        )
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {METHODS}. Received: method={method!r}"
        )


def _check_budget(budget, argument, costs) -> float:
    budget = check_number(budget, argument)
    if not costs[0] <= budget <= costs[-1]:
        raise ValueError(
            f"`{argument}` must be from {costs[0]:,.12g}, the cost of the first "
            f"exit and the smallest possible budget, to {costs[-1]:,.12g}, the "
            f"cost of the last exit. Received: {argument}={budget:,.12g}"
        )
    return budget


def _check_exit_ms(exit_ms, number) -> np.ndarray:
    costs = np.asarray(exit_ms, "float64")
    if (
        costs.shape != (number,)
        or not np.isfinite(costs).all()
        or not (np.diff(costs, prepend=0) > 0).all()
    ):
        raise ValueError(
            f"`exit_ms` must hold {number} increasing positive numbers, one "
            f"per exit. Received: exit_ms={exit_ms}"
        )
    return costs
