"""The constants of a detector."""

import dataclasses
from collections.abc import Sequence


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
            value = getattr(self, name)
            if not hasattr(value, "__index__") or value < 1:
                raise ValueError(
                    f"`{name}` must be a positive integer. Received: {name}={value!r}"
                )
        for name in ("rpn_beta", "box_beta"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(
                    f"`{name}` must be positive. Received: {name}={value!r}"
                )
        for name in ("rpn_nms_iou", "box_iou", "nms_iou", "rpn_positives"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(
                    f"`{name}` must be in [0, 1]. Received: {name}={value!r}"
                )
        if not 0 <= self.rpn_iou[1] <= self.rpn_iou[0] <= 1:
            raise ValueError(
                "`rpn_iou` must be two numbers in [0, 1], the larger one first. "
                f"Received: rpn_iou={self.rpn_iou!r}"
            )


# Weights of the deltas of anchors and of boxes
ANCHOR_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)

# Least height and width in pixels of proposals and detections
LEAST_PROPOSAL = 1e-3
LEAST_DETECTION = 1e-2
