"""The accuracy and cost of a cascade, from logits that were collected once."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_resadapt.inference.calibrating.calibration import calibrate
from keras_resadapt.inference.calibrating.threshold_search import (
    first_confident_exit,
)
from keras_resadapt.inference.running.adaptive_predictor import AdaptivePrediction
from keras_resadapt.inference.storing.confidence import confidence, softmax
from keras_resadapt.inference.storing.point_logits import PointLogits
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.number_checks import check_integer


def anytime(collected: PointLogits) -> list[tuple[str, int, float]]:
    """Returns the accuracy if all images stop at the same exit.

    RANet, section 4.1.

    Args:
        collected: The result of `collect_logits`.

    Returns:
        One row per exit: its name, multiply-adds and top-1 accuracy in [0, 1].
        `analysis.plot_accuracy_cost` accepts the rows.
    """
    return list(
        zip(
            collected.names,
            collected.madds,
            collected.correct.mean(axis=1).tolist(),
        )
    )


def simulate(
    collected: PointLogits, thresholds: Thresholds | Sequence[float]
) -> AdaptivePrediction:
    """Returns the predictions of an `AdaptivePredictor` without running it.

    Args:
        collected: The result of `collect_logits` for a cascade.
        thresholds: As for `AdaptivePredictor`.

    Raises:
        ValueError: If the number of thresholds is wrong, or the thresholds
            were calibrated for another model.
    """
    collected.check_cascade()
    thresholds = Thresholds.of(thresholds)
    if len(thresholds.values) != len(collected.names) - 1:
        raise ValueError(
            f"{len(collected.names)} exits need {len(collected.names) - 1} "
            f"thresholds. Received: {len(thresholds.values)}"
        )
    if None not in (thresholds.fingerprint, collected.fingerprint) and (
        thresholds.fingerprint != collected.fingerprint
    ):
        raise ValueError(
            "The thresholds were calibrated for another model than the logits: "
            f"{thresholds.fingerprint!r} and {collected.fingerprint!r}."
        )
    temperatures = np.array(thresholds.temperatures, "float32")
    probabilities = softmax(collected.logits / temperatures[:, None, None])
    exits = first_confident_exit(confidence(probabilities), thresholds.values)
    probabilities = probabilities[exits, np.arange(len(exits))]
    return AdaptivePrediction(
        probabilities,
        probabilities.argmax(axis=-1),
        exits,
        np.array(collected.madds)[exits],
    )


@dataclasses.dataclass(frozen=True)
class BudgetedRow:
    """A point of the accuracy-cost curve.

    Attributes:
        budget: The mean multiply-adds per image that the thresholds were
            calibrated for.
        madds: Mean multiply-adds per image on the test data.
        accuracy: Top-1 accuracy on the test data, in [0, 1].
        thresholds: The thresholds, for an `AdaptivePredictor`.
    """

    budget: float
    madds: float
    accuracy: float
    thresholds: Thresholds


def budgeted(
    held_out: PointLogits,
    test: PointLogits,
    budgets: Sequence[float] | int = 40,
    method: str = "geometric",
    temperature_scaling: bool = False,
) -> list[BudgetedRow]:
    """Returns the accuracy-cost curve of budgeted batch classification.

    RANet, section 4.2.

    Args:
        held_out: Logits of the images on which the thresholds are calibrated.
        test: Logits of other images, of the same model.
        budgets: Mean multiply-adds per image, or the number of budgets, which
            are then evenly spaced from the cost of the first exit to that of
            the last exit.
        method, temperature_scaling: As for `calibrate`.

    Returns:
        One row per budget. `[(row.madds, row.accuracy) for row in rows]` is a
        sweep for `analysis.plot_accuracy_cost`.
    """
    if np.ndim(budgets) == 0:
        number = check_integer(budgets, "budgets")
        budgets = np.linspace(held_out.madds[0], held_out.madds[-1], number)
    if not len(budgets):
        raise ValueError(
            f"`budgets` must hold at least one budget. Received: budgets={budgets}"
        )
    rows = []
    for budget in budgets:
        thresholds = calibrate(
            held_out,
            max_madds=float(budget),
            method=method,
            temperature_scaling=temperature_scaling,
        )
        prediction = simulate(test, thresholds)
        rows.append(
            BudgetedRow(
                float(budget),
                float(prediction.madds.mean()),
                float(np.mean(prediction.classes == test.labels)),
                thresholds,
            )
        )
    return rows
