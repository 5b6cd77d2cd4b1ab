"""What each worker of `test_detection_workers.py` runs.

`python detection_worker_script.py FOLDER` trains and evaluates a detector on the
cluster of `TF_CONFIG`, and writes what it has found to FOLDER/worker_INDEX.npz.
"""

import pathlib
import sys

import keras_resadapt  # first: it chooses TensorFlow's convolutions

# isort: split

import keras
import numpy as np

from keras_resadapt import data, training
from keras_resadapt.models import whole_images

CLASSES = 8
BATCH = 2
SMALL = {
    "backbone": "resnet18",
    "resolutions": (64, 48),
    "max_size": 64,
    "depths": (1,),
    "filters": (8,),
    "channels": 8,
    "units": 8,
    "settings": {
        "anchor_sizes": (12, 24),
        "rpn_candidates": (24, 20),
        "rpn_proposals": (20, 16),
        "rpn_samples": 16,
        "box_samples": 16,
        "score_threshold": 0.0,
        "max_detections": 6,
    },
}


def make(run_eagerly: bool = False) -> keras.Model:
    """A compiled network, with the same weights in every process.

    It has one sub-network; those of several widths are tested with classifiers.
    """
    keras.utils.set_random_seed(0)
    options = {**SMALL, "resolutions": (64,)}
    model = keras_resadapt.MutualMaskRCNN(
        CLASSES, width_range=(1.0, 1.0), num_random_widths=0, **options
    )
    model.compile(training.SGD(0.01, weight_decay=1e-3), run_eagerly=run_eagerly)
    return model


def training_batches(shard=(0, 1)):
    """Batches in which the number of objects differs between the images."""
    return data.detection_training_batches(
        data.demo_detection_source("train", 6),
        BATCH,
        64,
        max_size=64,
        max_objects=4,
        seed=0,
        shard=shard,
    )


def evaluation_batches(shard=(0, 1)):
    """Three images, so that one of two workers has none in the last batch."""
    return data.detection_evaluation_batches(
        data.demo_detection_source("validation", 3),
        BATCH,
        64,
        max_size=64,
        shard=shard,
    )


def train_and_score(model: keras.Model) -> dict[str, np.ndarray]:
    """Losses and variables after a training, and scores of two evaluations."""
    history = model.fit(
        training.distribute(training_batches, BATCH),
        steps_per_epoch=2,
        epochs=1,
        validation_data=training.distribute(evaluation_batches, BATCH),
        verbose=0,
    ).history
    found = {f"fit/{name}": np.array(value) for name, value in history.items()}
    found |= {
        f"variable/{number}_{v.name}": np.array(v)
        for number, v in enumerate(model.variables)
    }
    # The last one has all images in every worker.
    for name, batches in (
        ("shares", training.distribute(evaluation_batches, BATCH)),
        ("all", evaluation_batches()),
    ):
        scores = score(model, batches)
        found |= {f"{name}/{key}": np.array(value) for key, value in scores.items()}
    return found


def score(model: keras.Model, batches) -> dict[str, float]:
    """Scores of detections that are perfect, except that each image lacks one.

    An untrained network has scores of 0.
    """

    def run_at(point, images, targets):
        scale = np.array(targets["size"]) / np.array(targets["original_size"])
        boxes = np.array(targets["boxes"]) * np.tile(scale[:, ::-1], 2)[:, None]
        return {
            "boxes": boxes,
            "classes": np.array(targets["classes"]),
            "scores": np.ones(boxes.shape[:2]),
            "masks": np.ones((*boxes.shape[:2], 28, 28), "float32"),
            "count": np.maximum(np.array(targets["count"]) - 1, 0),
        }

    model.run_at = run_at
    return model.evaluate(batches, verbose=0, return_dict=True)


def main(folder: pathlib.Path) -> None:
    scope = training.strategy_scope("multi_worker", timeout_seconds=60)
    # One image at a time, of which the workers have different numbers
    whole_images._RECORDS = 1
    with scope:
        found = train_and_score(make())
    np.savez(folder / f"worker_{training.workers.worker_index()}.npz", **found)
    training.gather_from_workers("written")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
