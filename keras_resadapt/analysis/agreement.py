"""Agreement of a cheap and an expensive operating point."""

import dataclasses
import os
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from keras_resadapt.analysis.heat_table import draw_heat_table
from keras_resadapt.analysis.text import plain
from keras_resadapt.inference.running.collecting import collect_logits
from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Results of two operating points on the same images.

    Attributes:
        names: Names of the cheap and the expensive point.
        both, only_cheap, only_dear, neither: Fractions of the images that are right
            at both points, at the cheap or the expensive one alone, or at none. Their
            sum is 1. These are the regions A, B, C and D of MSNet, figure 2 (a).
        thresholds: Thresholds for the confidence at the cheap point, in [0, 1].
        precision: Accuracy, in [0, 1], of the images whose confidence is at least the
            threshold. NaN where there are none.
        coverage: Fraction of the images whose confidence is at least the threshold.
    """

    names: tuple[str, str]
    both: float
    only_cheap: float
    only_dear: float
    neither: float
    thresholds: np.ndarray
    precision: np.ndarray
    coverage: np.ndarray


def precision_and_coverage(
    confidence: np.ndarray, correct: np.ndarray, thresholds: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Computes the accuracy and the fraction of the confident images.

    Args:
        confidence: Largest probability of each image, of shape (images,).
        correct: Whether the prediction is right, bool of shape (images,).
        thresholds: Images with a confidence of at least the threshold are confident.

    Returns:
        Precision, the accuracy of the confident images, NaN where there are none; and
        coverage, their fraction; both of shape (thresholds,).

    Raises:
        ValueError: If there are no images, or the arrays have different lengths.
    """
    confidence, correct = np.asarray(confidence), np.asarray(correct)
    if not confidence.size or confidence.shape != correct.shape:
        raise ValueError(
            "`confidence` and `correct` must have the same length, at least 1. "
            f"Received: shapes {confidence.shape} and {correct.shape}"
        )
    order = np.argsort(confidence)
    # Number of images below each threshold
    below = np.searchsorted(confidence[order], thresholds, side="left")
    right_from = np.append(np.cumsum(correct[order][::-1])[::-1], 0)
    confident = len(confidence) - below
    with np.errstate(invalid="ignore"):
        precision = right_from[below] / confident
    return precision, confident / len(confidence)


def plot_agreement(
    model: keras.Model,
    data: Iterable,
    path: str | os.PathLike,
    points: tuple[OperatingPoint, OperatingPoint] | None = None,
    thresholds: Sequence[float] | None = None,
    title: str = "",
    verbose: bool = True,
) -> Agreement:
    """Plots how much an expensive operating point adds to a cheap one.

    The left plot shows the fractions of the images that are right at both points, at
    one or at none (MSNet, figure 2 (a)). The right plot shows the accuracy and the
    fraction of the images that are confident at the cheap point, for all thresholds
    (figure 2 (b)).

    The figure of the paper is of a ResNet-18 tested at two resolutions: an `RSNet` of
    one resolution with `extrapolate=True`, and two points, one of them the resolution
    of the training.

    Args:
        model: A classifier with operating points, such as an `RSNet` (resolutions) or
            a cascade (exits).
        data: Batches of (images, labels). For an `RSNet`, images can be a tuple with
            one tensor per resolution. Missing resolutions are resized from the
            largest one.
        path: The image file to write.
        points: The cheap and the expensive point. None for the cheapest and the most
            expensive one of the model.
        thresholds: Thresholds of the confidence. None for 201 of them from 0 to 1.
        title: Title of the plot.
        verbose: Whether to show the progress.

    Returns:
        The results.

    Raises:
        TypeError: If the model has no operating points.
        ValueError: If there are not two points or no thresholds, or for invalid data
            (see `collect_logits`).
    """
    points = cheap_and_dear(model) if points is None else tuple(points)
    if len(points) != 2:
        raise ValueError(
            f"`points` must be two, cheap and expensive. Received: points={points}"
        )
    if thresholds is None:
        thresholds = np.linspace(0, 1, 201)
    thresholds = np.asarray(thresholds, "float64")
    if thresholds.ndim != 1 or not len(thresholds):
        raise ValueError(
            "`thresholds` must be a sequence of at least one number. "
            f"Received: thresholds of shape {thresholds.shape}"
        )
    thresholds = np.sort(thresholds)
    collected = collect_logits(model, data, points, verbose)
    cheap, dear = collected.correct
    regions = (cheap & dear, cheap & ~dear, ~cheap & dear, ~cheap & ~dear)
    both, only_cheap, only_dear, neither = (
        float(np.mean(region)) for region in regions
    )
    precision, coverage = precision_and_coverage(
        collected.confidence[0], cheap, thresholds
    )
    agreement = Agreement(
        names=(points[0].name, points[1].name),
        both=both,
        only_cheap=only_cheap,
        only_dear=only_dear,
        neither=neither,
        thresholds=thresholds,
        precision=precision,
        coverage=coverage,
    )
    _draw(agreement, len(cheap), path, title)
    return agreement


def cheap_and_dear(model: keras.Model) -> tuple[OperatingPoint, OperatingPoint]:
    """Returns the cheapest and the most expensive operating point of a model.

    Raises:
        ValueError: If the model has fewer than two operating points.
    """
    points = sorted(
        getattr(model, "operating_points", ()),
        key=lambda p: (p.resolution or 0, p.width or 0, p.exit or 0),
    )
    if len(points) < 2:
        raise ValueError(
            "`points` must be two operating points if the model has fewer than two. "
            f"Received: {getattr(model, 'name', model)!r} with {len(points)} "
            "operating points"
        )
    return points[0], points[-1]


def _draw(agreement: Agreement, count: int, path, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    low, high = agreement.names
    shares = [
        [agreement.both, agreement.only_cheap],
        [agreement.only_dear, agreement.neither],
    ]
    draw_heat_table(
        left,
        100 * np.array(shares),
        [f"{low}\nright", f"{low}\nwrong"],
        [f"{high} right", f"{high} wrong"],
        "{:.1f} %",
    )
    low_right = agreement.both + agreement.only_cheap
    high_right = agreement.both + agreement.only_dear
    left.set_title(
        f"{count} images: {low} {100 * low_right:.1f} % right, "
        f"{high} {100 * high_right:.1f} %",
        fontsize="medium",
    )
    right.plot(
        agreement.thresholds,
        100 * agreement.precision,
        label="precision: accuracy of these images",
    )
    right.plot(
        agreement.thresholds,
        100 * agreement.coverage,
        linestyle="--",
        label="coverage: images at or above the threshold",
    )
    right.set_xlabel(f"threshold of the confidence at {low}")
    right.set_ylabel("%")
    right.set_ylim(0, 102)
    right.grid(alpha=0.3)
    right.legend(loc="lower left")
    figure.suptitle(plain(title))
    figure.savefig(path)
