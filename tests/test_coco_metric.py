import json
import pathlib

import numpy as np
import pytest

from keras_resadapt.data import detection_evaluation_batches, load_source
from keras_resadapt.tasks import CocoMetric

pytest.importorskip("pycocotools")

SHARED_TFDS = pathlib.Path(__file__).parents[1] / ".." / "shared" / "tfds"


def squares(ids, crowd=False):
    """Returns targets of images with one square each, and their masks."""
    count = len(ids)
    boxes = np.tile(np.float32([10, 20, 50, 60]), (count, 1, 1))
    masks = np.zeros((count, 1, 100, 100), np.uint8)
    masks[:, :, 20:60, 10:50] = 1
    targets = {
        "image_id": np.array(ids),
        "original_size": np.full((count, 2), 100),
        "boxes": boxes,
        "classes": np.zeros((count, 1), np.int32),
        "crowd": np.full((count, 1), crowd),
        "area": np.full((count, 1), 1600.0),
        "masks": masks,
        "count": np.ones(count, np.int32),
    }
    return targets, {**targets, "scores": np.full((count, 1), 0.9)}


def test_perfect_detections_and_sizes_without_objects():
    metric = CocoMetric(2)
    metric.update_state(*squares([5, 0]))  # the first number can be 0
    result = metric.result()
    assert result["box_ap"] == result["mask_ap"] == pytest.approx(1)
    assert result["box_ap_medium"] == result["mask_ap_medium"] == pytest.approx(1)
    assert np.isnan(result["box_ap_small"]) and np.isnan(result["mask_ap_large"])
    assert list(result)[:6] == [
        *("box_ap", "box_ap50", "box_ap75"),
        *("box_ap_small", "box_ap_medium", "box_ap_large"),
    ]
    metric.reset_state()
    assert np.isnan(metric.result()["box_ap"])


def test_images_without_detections_are_counted():
    targets, detections = squares([1, 2])
    detections["count"] = np.array([1, 0])
    metric = CocoMetric(1, masks=False)
    metric.update_state(targets, detections)
    assert list(metric.result()) == [
        f"box_{name}"
        for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    ]
    # Recall up to 0.5 at precision 1, at 101 levels of recall
    assert metric.result()["box_ap"] == pytest.approx(51 / 101)
    metric.reset_state()
    metric.update_state(targets, {**detections, "count": np.array([0, 0])})
    assert metric.result()["box_ap"] == 0


def test_false_detections_crowds_and_images_without_objects():
    targets, detections = squares([1])
    empty, false = squares([2])
    empty["count"] = np.array([0])
    false["scores"] = np.array([[0.95]])  # above the correct one
    metric = CocoMetric(1)
    metric.update_state(targets, detections)
    metric.update_state(empty, false)
    assert metric.result()["box_ap"] == pytest.approx(0.5)
    # Detections of a crowd are ignored
    metric.reset_state()
    metric.update_state(targets, detections)
    metric.update_state(squares([2], crowd=True)[0], false)
    assert metric.result()["mask_ap"] == pytest.approx(1)


def test_boxes_and_masks_are_scored_separately():
    targets, detections = squares([1])
    masks = detections["masks"].copy()
    masks[..., 40:, :] = 0  # half of the mask: an IoU of 0.5
    metric = CocoMetric(1)
    metric.update_state(targets, {**detections, "masks": masks})
    result = metric.result()
    assert result["box_ap"] == pytest.approx(1)
    assert result["mask_ap50"] == pytest.approx(1) and result["mask_ap75"] == 0
    assert result["mask_ap"] == pytest.approx(0.1)


def test_records_of_several_metrics():
    """Each image counts once, and the parts score as the whole."""
    targets, detections = squares(range(5))
    detections["count"] = np.array([1, 0, 1, 0, 1])
    whole, first, second = CocoMetric(1), CocoMetric(1), CocoMetric(1)
    whole.update_state(targets, detections)
    for metric, rows in ((first, slice(3)), (second, slice(2, 5))):
        parts = (
            {name: values[rows] for name, values in of_all.items()}
            for of_all in (targets, detections)
        )
        metric.update_state(*parts)
    first.add_records(json.loads(json.dumps(second.records())))
    assert first.result() == pytest.approx(whole.result(), nan_ok=True)
    assert 0 < whole.result()["mask_ap"] < 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"classes": np.array([[3]])}, r"from 0 to 0. Received: \[3\] in the image 1"),
        ({"scores": np.array([[np.nan]])}, "must be finite"),
        ({"boxes": np.full((1, 1, 4), np.inf)}, "must be finite"),
        ({"masks": np.zeros((1, 1, 50, 50))}, "of the original image, here"),
    ],
)
def test_invalid_detections_are_errors_and_change_nothing(changes, message):
    metric = CocoMetric(1)
    targets, detections = squares([1])
    with pytest.raises(ValueError, match=message):
        metric.update_state(targets, {**detections, **changes})
    metric.update_state(targets, detections)
    with pytest.raises(ValueError, match="added once.*image_id=1"):
        metric.update_state(targets, detections)
    assert metric.result()["mask_ap"] == pytest.approx(1)


@pytest.mark.skipif(not SHARED_TFDS.is_dir(), reason="needs ../shared/tfds")
@pytest.mark.parametrize("name", ["coco_mini", "nuclei_dsb"])
def test_ground_truth_scores_one_against_the_annotation_file(name):
    """The ground truth of TFDS as detections of the file's ground truth."""
    path = SHARED_TFDS / "annotations" / f"{name}_instances_validation.json"
    content = json.loads(path.read_text())
    class_of = {one["id"]: n for n, one in enumerate(content["categories"])}
    by_image = {one["id"]: [] for one in content["images"]}
    for one in content["annotations"]:
        by_image[one["image_id"]].append(one)
    source = load_source(name, "validation", data_dir=SHARED_TFDS)
    metric = CocoMetric(source.num_classes)
    batches = detection_evaluation_batches(source, 1, 32).take(30)
    for _, found in batches.as_numpy_iterator():
        rows = by_image[int(found["image_id"][0])]
        boxes = np.array([one["bbox"] for one in rows], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truth = {
            "image_id": found["image_id"],
            "original_size": found["original_size"],
            "boxes": boxes[None],
            "classes": [np.array([class_of[one["category_id"]] for one in rows], int)],
            "crowd": [[one["iscrowd"] for one in rows]],
            "area": [[one["area"] for one in rows]],
            "masks": [[one["segmentation"]["counts"].encode() for one in rows]],
            "count": [len(rows)],
        }
        scores = np.ones(found["classes"].shape)
        metric.update_state(truth, {**found, "scores": scores})
    result = metric.result()
    for score in result.values():
        assert np.isnan(score) or score > 0.9999
    assert result["box_ap"] > 0.9999 and result["mask_ap"] > 0.9999
