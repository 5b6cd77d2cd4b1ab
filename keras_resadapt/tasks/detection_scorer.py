"""COCO's scores of the detections of a network."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from keras_resadapt.boxes import paste_masks
from keras_resadapt.tasks.coco_metric import CocoMetric, encode_masks


class DetectionScorer(CocoMetric):
    """COCO's average precision of detections in resized images.

    Args:
        num_classes, masks: As for `CocoMetric`.
    """

    @property
    def headline(self) -> str:
        """The name of the score by which operating points are compared."""
        return "mask_ap" if self.masks else "box_ap"

    def update_state(
        self, targets: Mapping[str, Any], detections: Mapping[str, Any]
    ) -> None:
        """Adds a batch of images.

        Args:
            targets: The targets of a batch of `data.detection_evaluation_batches` at
                one resolution.
            detections: Arrays that `heads.MaskRCNN` returns for the resized images.
        """
        found = own_pixels(targets, detections)
        if self.masks:
            sizes = np.asarray(targets["original_size"])

            def masks_of(place, size):
                return binary_masks(found, place, tuple(size))

            found["masks"] = [
                [one["counts"] for one in encode_masks(masks_of(place, size), size)]
                for place, size in enumerate(sizes.tolist())
            ]
        super().update_state(targets, found)


def own_pixels(
    targets: Mapping[str, Any], detections: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns detections with their boxes in pixels of the original images.

    Args:
        targets: `size` and `original_size`, height and width of each image on its
            canvas and before it was resized, of shape (batch, 2).
        detections: Arrays that `heads.MaskRCNN` returns.
    """
    size, original = (
        np.asarray(targets[key], "float32") for key in ("size", "original_size")
    )
    scale = np.tile((original / size)[:, ::-1], 2)[:, None]
    limits = np.tile(original[:, ::-1], 2)[:, None]
    boxes = np.minimum(np.asarray(detections["boxes"]) * scale, limits)
    return {**detections, "boxes": boxes}


def binary_masks(
    detections: Mapping[str, Any], place: int, size: tuple[int, int]
) -> np.ndarray:
    """Returns the masks of the detections in one image of a batch.

    Args:
        detections: Arrays, with `boxes` in pixels of the image and `masks`, logits of
            shape (batch, detections, 28, 28).
        place: The index of the image in the batch.
        size: Height and width of the image in pixels.

    Returns:
        uint8 array of zeros and ones of shape (count, height, width).
    """
    count = int(detections["count"][place])
    logits = np.asarray(detections["masks"][place][:count], "float32")
    boxes = np.asarray(detections["boxes"][place][:count], "float32")
    if not count:
        return np.zeros((0, *size), "uint8")
    pasted = paste_masks(1 / (1 + np.exp(-logits)), boxes, size)
    return (ops.convert_to_numpy(pasted) >= 0.5).astype("uint8")
