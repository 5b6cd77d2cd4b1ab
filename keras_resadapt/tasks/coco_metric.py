"""Average precision of boxes and masks, as COCO defines it."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# The first six results of `pycocotools`
SCORES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


class CocoMetric:
    """The average precision of detections over a whole data set.

    The computation is that of `pycocotools`. It runs in NumPy, outside of graphs.
    Images without detections and images without objects are counted. At most 100
    detections per image and class are counted, those with the highest scores.

    - `ap`: averaged over the IoU thresholds from 0.50 to 0.95.
    - `ap50`, `ap75`: at the IoU thresholds 0.50 and 0.75.
    - `ap_small`, `ap_medium`, `ap_large`: for objects of less than 32 x 32 pixels, up
      to 96 x 96 pixels, and more.

    Args:
        num_classes: Number of classes, a positive integer.
        masks: Whether to compute the average precision of masks too.

    Raises:
        ImportError: If pycocotools is not installed.
        ValueError: If `num_classes` is not a positive integer.

    Example:

        metric = CocoMetric(num_classes=80)
        for images, targets in detection_evaluation_batches(source, 8, 600):
            metric.update_state(targets, detect(images))
        metric.result()["mask_ap"]
    """

    def __init__(self, num_classes: int, masks: bool = True):
        try:
            import pycocotools.cocoeval  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "The metrics of COCO are computed with pycocotools: "
                "`pip install pycocotools`."
            ) from error

        if num_classes < 1:
            raise ValueError(
                "`num_classes` must be a positive integer. "
                f"Received: num_classes={num_classes!r}"
            )
        self.num_classes = num_classes
        self.masks = masks
        self.reset_state()

    def check_targets(self, targets: Mapping[str, Any]) -> None:
        """Raises a `ValueError` for targets that are not those of an evaluation."""
        wanted = {"image_id", "original_size", "boxes", "classes", "crowd", "area"}
        wanted |= {"count", "masks"} if self.masks else {"count"}
        if not isinstance(targets, Mapping) or not wanted <= targets.keys():
            found = sorted(targets) if isinstance(targets, Mapping) else type(targets)
            raise ValueError(
                "Evaluation takes the targets of `data.detection_evaluation_batches`, "
                f"a dict with the keys {sorted(wanted)}. Received: {found}"
            )

    def reset_state(self) -> None:
        """Removes all images."""
        self._records: dict[int, dict] = {}

    def update_state(
        self, targets: Mapping[str, Any], detections: Mapping[str, Any]
    ) -> None:
        """Adds a batch of images.

        Args:
            targets: The targets of a batch of `data.detection_evaluation_batches`.
            detections: Arrays or tensors, or sequences with one array per image:

                - `boxes`: (batch, detections, 4), x1, y1, x2, y2 in pixels of the
                  original image.
                - `classes`: integers (batch, detections).
                - `scores`: (batch, detections).
                - `masks`: one item per image: an array (detections, height, width) of
                  the size of the original image, nonzero inside the objects, or a
                  sequence of compressed run lengths (bytes).
                - `count`: integers (batch,), number of detections per image. The rest
                  is padding. Without it, all detections are counted.

        Raises:
            ValueError: If an image was added before, a class is out of range, a score
                or a box is not finite, or a mask has another size than its image.
        """
        self.check_targets(targets)
        ids = np.asarray(targets["image_id"]).tolist()
        records = []
        for place, image_id in enumerate(ids):
            if image_id in self._records or image_id in ids[:place]:
                raise ValueError(
                    "Each image must be added once. Call `reset_state` before the next "
                    f"evaluation. Received: image_id={image_id}"
                )
            size = [int(n) for n in np.asarray(targets["original_size"][place])]
            records.append(
                {
                    "image": {"id": image_id, "height": size[0], "width": size[1]},
                    "objects": self._target_rows(targets, place, image_id, size),
                    "detections": self._detection_rows(
                        detections, place, image_id, size
                    ),
                }
            )
        self.add_records(records)

    def records(self) -> list[dict[str, Any]]:
        """Returns what was added, one record per image.

        JSON can represent the records. `add_records` adds them to another metric.
        """
        return list(self._records.values())

    def add_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds the images of other metrics of the same data set.

        An image that is already there is left out, so that each image is counted once.

        Args:
            records: What `records` returned.
        """
        for record in records:
            self._records.setdefault(record["image"]["id"], dict(record))

    def result(self) -> dict[str, float]:
        """Returns the scores by name, `box_ap` to `box_ap_large`.

        With masks, these are followed by `mask_ap` to `mask_ap_large`. A score is in
        [0, 1], and NaN if there are no objects for it, for example no large objects.
        """
        result = self._evaluate("bbox", "box")
        return {**result, **self._evaluate("segm", "mask")} if self.masks else result

    def _target_rows(self, targets, place, image_id, size) -> list[dict]:
        count = int(np.asarray(targets["count"])[place])
        columns = {
            key: np.asarray(targets[key][place])[:count]
            for key in ("boxes", "classes", "crowd", "area")
        }
        self._check_classes(columns["classes"], image_id)
        rows = _box_rows(columns["boxes"], columns["classes"], image_id)
        for row, crowd, area in zip(rows, columns["crowd"], columns["area"]):
            row.update(iscrowd=int(crowd), area=float(area))
        if self.masks:
            encoded = encode_masks(np.asarray(targets["masks"][place])[:count], size)
            for row, one in zip(rows, encoded):
                row["segmentation"] = _as_text(one)
        return rows

    def _detection_rows(self, detections, place, image_id, size) -> list[dict]:
        classes = np.asarray(detections["classes"][place])
        count = len(classes)
        if detections.get("count") is not None:
            count = int(np.asarray(detections["count"])[place])
        classes = classes[:count]
        boxes = np.asarray(detections["boxes"][place])[:count]
        scores = np.asarray(detections["scores"][place])[:count]
        self._check_classes(classes, image_id)
        if not (np.all(np.isfinite(boxes)) and np.all(np.isfinite(scores))):
            raise ValueError(
                "Boxes and scores of detections must be finite. Received: NaN or "
                f"infinity in the image {image_id}"
            )
        rows = _box_rows(boxes, classes, image_id)
        for row, score in zip(rows, scores):
            width, height = row["bbox"][2:]
            row.update(score=float(score), iscrowd=0, area=width * height)
        if self.masks:
            from pycocotools import mask

            encoded = encode_masks(detections["masks"][place][:count], size)
            for row, one in zip(rows, encoded):
                row["segmentation"] = _as_text(one)
                row["mask_area"] = float(mask.area(one))
        return rows

    def _check_classes(self, classes, image_id):
        wrong = classes[(classes < 0) | (classes >= self.num_classes)]
        if wrong.size:
            raise ValueError(
                f"Classes must be from 0 to {self.num_classes - 1}. Received: "
                f"{wrong.tolist()} in the image {image_id}"
            )

    def _evaluate(self, kind: str, prefix: str) -> dict[str, float]:
        """Returns the scores of boxes (`"bbox"`) or masks (`"segm"`)."""
        from pycocotools.cocoeval import COCOeval

        objects, detections = (
            [row for record in self._records.values() for row in record[key]]
            for key in ("objects", "detections")
        )
        if kind == "segm":
            detections = [{**row, "area": row["mask_area"]} for row in detections]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            evaluation = COCOeval(
                self._data_set(objects), self._data_set(detections), kind
            )
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # -1 stands for "no objects".
        scores = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
        return {f"{prefix}_{name}": float(x) for name, x in zip(SCORES, scores)}

    def _data_set(self, rows: Sequence[dict]):
        from pycocotools.coco import COCO

        data_set = COCO()
        # Numbers start at 1, because pycocotools takes 0 for "no match".
        data_set.dataset = {
            "images": [record["image"] for record in self._records.values()],
            "categories": [{"id": label} for label in range(self.num_classes)],
            "annotations": [{**row, "id": 1 + n} for n, row in enumerate(rows)],
        }
        data_set.createIndex()
        return data_set


def _box_rows(boxes, classes, image_id) -> list[dict]:
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    return [
        {"image_id": image_id, "category_id": int(label), "bbox": box}
        for label, box in zip(
            classes, np.concatenate([boxes[:, :2], sides], axis=1).tolist()
        )
    ]


def _as_text(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns run lengths in a form that JSON can represent."""
    return {**encoded, "counts": encoded["counts"].decode()}


def encode_masks(masks: Any, size: Sequence[int]) -> list[dict]:
    """Returns masks of one image in the form of pycocotools.

    Args:
        masks: Array (masks, height, width), or a sequence of compressed run lengths.
        size: Height and width of the image.

    Raises:
        ValueError: If a mask has another size than the image.
    """
    from pycocotools import mask

    if len(masks) == 0:
        return []
    if isinstance(masks[0], bytes):
        return [{"size": size, "counts": bytes(counts)} for counts in masks]
    masks = np.asarray(masks)
    if list(masks.shape[1:]) != list(size):
        raise ValueError(
            "Masks must have the shape (masks, height, width) of the original image, "
            f"here {size}. Received: masks of shape {masks.shape}"
        )
    binary = (masks != 0).astype(np.uint8)
    return mask.encode(np.asfortranarray(binary.transpose(1, 2, 0)))
