"""The constants of a detector."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from keras_resadapt.number_checks import check_integer


@dataclasses.dataclass(frozen=True)
class DetectionSettings:
    """The constants of a Faster or Mask R-CNN, by default those of torchvision.

    The Mask R-CNN of mmdetection 1 has `box_beta=1.0`, `rpn_least_iou=0.3` and
    `inside_anchors_only=True`.

    Attributes:
        anchor_sizes: Height and width in pixels of the square anchor of each level,
            with one more level than the backbone's; None for 8 times the stride.
        aspect_ratios: Height over width of the anchors.
        rpn_candidates: Number of anchors of the highest scores that each level
            proposes, in training and in inference.
        rpn_proposals: Number of proposals per image after NMS, in training and in
            inference.
        rpn_nms_iou: IoU above which the NMS of proposals drops a box.
        rpn_iou: IoU from which an anchor is positive, and below which it is
            negative.
        rpn_least_iou: IoU from which the best anchor of an object is positive, even
            if `rpn_iou` leaves it out.
        rpn_samples: Number of anchors per image that the losses take.
        rpn_positives: Largest share of positive ones among them.
        inside_anchors_only: Whether anchors that are partly outside the image are
            left out of the losses.
        box_iou: IoU from which a proposal is positive; it is negative below.
        box_samples: Number of proposals per image that the losses take.
        box_positives: Largest share of positive ones among them.
        rpn_beta, box_beta: Absolute error below which the smooth L1 loss is
            quadratic.
        score_threshold: Probability above which a box is a detection.
        nms_iou: IoU above which the NMS of detections drops a box.
        max_detections: Number of detections per image.

    Raises:
        ValueError: A value outside its range.
    """

    anchor_sizes: Sequence[float] | None = None
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    rpn_candidates: tuple[int, int] = (2000, 1000)
    rpn_proposals: tuple[int, int] = (2000, 1000)
    rpn_nms_iou: float = 0.7
    rpn_iou: tuple[float, float] = (0.7, 0.3)
    rpn_least_iou: float = 0.0
    rpn_samples: int = 256
    rpn_positives: float = 0.5
    inside_anchors_only: bool = False
    box_iou: float = 0.5
    box_samples: int = 512
    box_positives: float = 0.25
    rpn_beta: float = 1 / 9
    box_beta: float = 1 / 9
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100

    def __post_init__(self):
        for name in ("rpn_samples", "box_samples", "max_detections"):
            check_integer(getattr(self, name), name)
        for name in ("rpn_candidates", "rpn_proposals"):
            self._check(
                name,
                "be two positive integers, for training and for inference",
                lambda pair: len([check_integer(n, "") for n in pair]) == 2,
            )
        for name in ("rpn_beta", "box_beta"):
            self._check(name, "be a positive number", _is_positive)
        for name in _SHARES:
            self._check(name, "be in [0, 1]", lambda share: 0 <= share <= 1)
        self._check(
            "rpn_iou",
            "be two numbers in [0, 1], the larger one first",
            lambda pair: len(pair) == 2 and 0 <= pair[1] <= pair[0] <= 1,
        )
        self._check(
            "aspect_ratios",
            "have at least one positive number",
            lambda ratios: len(ratios) > 0 and all(map(_is_positive, ratios)),
        )
        self._check(
            "anchor_sizes",
            "be None, or one positive number of pixels for each level",
            lambda sizes: sizes is None or all(map(_is_positive, sizes)),
        )

    def _check(self, name: str, rule: str, holds: Callable[[Any], bool]) -> None:
        """Raises a `ValueError` unless a field follows its rule."""
        value = getattr(self, name)
        try:
            valid = holds(value)
        except (TypeError, ValueError):  # of another type
            valid = False
        if not valid:
            raise ValueError(f"`{name}` must {rule}. Received: {name}={value!r}")


# Fields that are shares or probabilities
_SHARES = (
    "rpn_nms_iou",
    "rpn_least_iou",
    "rpn_positives",
    "box_iou",
    "box_positives",
    "score_threshold",
    "nms_iou",
)


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


# Weights of the deltas of anchors and of boxes
ANCHOR_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)

# Least height and width in pixels of proposals and detections
LEAST_PROPOSAL = 1e-3
LEAST_DETECTION = 1e-2
