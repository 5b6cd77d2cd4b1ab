"""What a cascade gives for its cost, from logits collected once."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_resadapt.inference.calibrating.calibration import calibrate
from keras_resadapt.inference.calibrating.threshold_search import (
    first_sure_exit,
)
from keras_resadapt.inference.running.adaptive_predictor import (
    AdaptivePrediction,
)
from keras_resadapt.inference.storing.point_logits import PointLogits, softmax
from keras_resadapt.inference.storing.thresholds import Thresholds


def anytime(collected: PointLogits) -> list[tuple[str, int, float]]:
    """Accuracy where every image stops at the same exit (RANet, section 4.1).

    Args:
        collected: What `collect_logits` returns.

    Returns:
        A row an exit: its name, multiply-adds and top-1 accuracy in [0, 1], as
        `analysis.plot_accuracy_cost` draws them.
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
    """What an `AdaptivePredictor` with these thresholds answers.

    Args:
        collected: What `collect_logits` returns for a cascade.
        thresholds: As for `AdaptivePredictor`.

    Raises:
        ValueError: For thresholds of another number, or of another model.
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
            "The thresholds were made for another model than the logits: "
            f"{thresholds.fingerprint!r} and {collected.fingerprint!r}."
        )
    temperatures = np.array(thresholds.temperatures, "float32")
    probabilities = softmax(collected.logits / temperatures[:, None, None])
    exits = first_sure_exit(probabilities.max(axis=-1), thresholds.values)
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
        budget: The mean multiply-adds an image that the thresholds were
            calibrated for.
        madds: Mean multiply-adds an image on the test data.
        accuracy: Top-1 accuracy on the test data, in [0, 1].
        thresholds: What the predictor needs to run there.
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
    """The accuracy-cost curve of budgeted batches (RANet, section 4.2).

    Args:
        held_out: Logits on the data that the thresholds are calibrated on.
        test: Logits on other data, of the same model.
        budgets: Mean multiply-adds an image, or how many budgets to lay
            evenly between the first exit's and the last one's.
        method, temperature_scaling: As for `calibrate`.

    Returns:
        A row a budget. `[(row.madds, row.accuracy) for row in rows]` is a
        sweep for `analysis.plot_accuracy_cost`.
    """
    if np.ndim(budgets) == 0:
        if budgets < 1:
            raise ValueError(f"`budgets` must be positive. Received: {budgets}")
        budgets = np.linspace(held_out.madds[0], held_out.madds[-1], int(budgets))
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
