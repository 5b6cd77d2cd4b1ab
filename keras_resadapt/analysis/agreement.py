"""Where a cheap and a dear operating point agree, and when the cheap one
can be trusted."""

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np

from keras_resadapt.analysis.heat_table import draw_heat_table
from keras_resadapt.inference.storing.point_logits import collect_logits
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How two operating points do on the same images.

    Attributes:
        names: Names of the cheap and the dear point.
        both, only_cheap, only_dear, neither: Shares of the images that are
            right at both, at one or at none, with sum 1: regions A, B, C and D
            of MSNet, figure 2 (a).
        thresholds: Of the cheap point's confidence, in [0, 1].
        precision: Accuracy, in [0, 1], of the images whose confidence is at
            least the threshold; NaN where there are none.
        coverage: Share of the images that they are.
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
    """Accuracy and number of the images that are sure enough.

    Args:
        confidence: Largest probability of each image, of shape (images,).
        correct: Whether its answer is right, bool of shape (images,).
        thresholds: An image is sure whose confidence is at least that.

    Returns:
        Precision, the accuracy of the sure images, NaN where there are none;
        and coverage, their share; both of shape (thresholds,).
    """
    order = np.argsort(confidence)
    # How many are not sure, for each threshold
    unsure = np.searchsorted(confidence[order], thresholds, side="left")
    right_from = np.append(np.cumsum(correct[order][::-1])[::-1], 0)
    sure = len(confidence) - unsure
    with np.errstate(invalid="ignore"):
        precision = right_from[unsure] / sure
    return precision, sure / len(confidence)


def plot_agreement(
    model: Network,
    data: Iterable,
    path: str | os.PathLike,
    points: tuple[OperatingPoint, OperatingPoint] | None = None,
    thresholds: Sequence[float] | None = None,
    title: str = "",
    verbose: bool = True,
) -> Agreement:
    """Draws how much a dear operating point adds to a cheap one.

    On the left, the shares of the images that are right at both points, at one
    or at none (MSNet, figure 2 (a)). On the right, the accuracy of the images
    that the cheap point is sure of, and how many they are, against the
    threshold that says what is sure (figure 2 (b)).

    The paper's own picture is of one ResNet-18 tested at two resolutions:
    an `RSNet` of one resolution with `extrapolate=True`, and two points of
    which it was trained at one.

    Args:
        model: An `RSNet` (points are resolutions) or a cascade (exits).
        data: Batches of (images, labels). For an `RSNet`, images can be a
            tuple with a tensor each resolution; those that are missing are
            resized from the largest.
        path: The picture to write.
        points: The cheap and the dear one; by default the cheapest and the
            most expensive of the model.
        thresholds: By default 201 of them, from 0 to 1.
        title: Above the picture.
        verbose: Whether to show the progress.

    Returns:
        The numbers.

    Raises:
        TypeError: The model is no `Network`.
        ValueError: Bad data; see `collect_logits`. Not two points.
    """
    from matplotlib.figure import Figure

    points = cheap_and_dear(model) if points is None else tuple(points)
    if len(points) != 2:
        raise ValueError(f"`points` must be two, cheap and dear. Received: {points}")
    collected = collect_logits(model, data, points, verbose)
    cheap, dear = collected.correct
    if thresholds is None:
        thresholds = np.linspace(0, 1, 201)
    thresholds = np.sort(np.asarray(thresholds, "float64"))
    precision, coverage = precision_and_coverage(
        collected.confidence[0], cheap, thresholds
    )
    agreement = Agreement(
        tuple(point.name for point in points),
        *(
            float(np.mean(region))
            for region in (
                cheap & dear,
                cheap & ~dear,
                ~cheap & dear,
                ~cheap & ~dear,
            )
        ),
        thresholds,
        precision,
        coverage,
    )

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    low, high = agreement.names
    draw_heat_table(
        left,
        100
        * np.array(
            [
                [agreement.both, agreement.only_cheap],
                [agreement.only_dear, agreement.neither],
            ]
        ),
        [f"{low}\nright", f"{low}\nwrong"],
        [f"{high} right", f"{high} wrong"],
        "{:.1f} %",
    )
    left.set_title(
        f"{len(cheap)} images: {low} {100 * cheap.mean():.1f} % right, "
        f"{high} {100 * dear.mean():.1f} %",
        fontsize="medium",
    )
    right.plot(thresholds, 100 * precision, label="precision: of these, right")
    right.plot(
        thresholds,
        100 * coverage,
        linestyle="--",
        label="coverage: images at or above it",
    )
    right.set_xlabel(f"threshold of the confidence at {low}")
    right.set_ylabel("%")
    right.set_ylim(0, 102)
    right.grid(alpha=0.3)
    right.legend(loc="lower left")
    figure.suptitle(title)
    figure.savefig(path)
    return agreement


def cheap_and_dear(model: Network) -> tuple[OperatingPoint, OperatingPoint]:
    """The cheapest and the most expensive operating point of a model."""
    points = sorted(
        getattr(model, "operating_points", ()),
        key=lambda p: (p.resolution or 0, p.width or 0, p.exit or 0),
    )
    if len(points) < 2:
        raise ValueError(
            f"{getattr(model, 'name', model)!r} has {len(points)} operating "
            "points: name two in `points`."
        )
    return points[0], points[-1]
