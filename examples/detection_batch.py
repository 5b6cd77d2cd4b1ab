"""Random inputs of `benchmark_detection.py`, the same for all contestants.

This module imports no framework.
"""

import numpy as np

NUM_OBJECTS = 7


def batch(size: int, batch_size: int, num_classes: int) -> tuple:
    """Returns images and their objects.

    Returns:
        Images in [0, 1] of shape (batch, size, size, 3); and boxes (batch, objects,
        4), classes (batch, objects) and masks (batch, objects, size, size).
    """
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (batch_size, size, size, 3)).astype("float32")
    boxes = np.stack([random_boxes(rng, NUM_OBJECTS, size) for _ in images])
    classes = rng.integers(0, num_classes, boxes.shape[:2])
    place = np.arange(size) + 0.5
    x, y = (
        (boxes[..., axis, None] < place) & (place < boxes[..., axis + 2, None])
        for axis in (0, 1)
    )
    masks = y[..., :, None] & x[..., None, :]
    return images, (boxes, classes, masks.astype("uint8"))


def random_boxes(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Returns boxes inside a square, with sides of a tenth to a half of it."""
    sides = rng.uniform(size / 10, size / 2, (count, 2))
    start = rng.uniform(0, 1, (count, 2)) * (size - sides)
    return np.concatenate([start, start + sides], axis=1).astype("float32")


def features_and_boxes() -> tuple:
    """Returns features of two images of 320 pixels, 1024 boxes and their images."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2, 80, 80, 256)).astype("float32")
    boxes = random_boxes(rng, 1024, 320)
    return features, boxes, np.arange(1024, dtype="int32") // 512


def with_images(boxes: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns boxes in the form of torchvision, with the image first."""
    return np.concatenate([images[:, None].astype("float32"), boxes], axis=1)


def candidates() -> tuple:
    """Returns 3000 boxes of each of two images, their scores and their levels."""
    rng = np.random.default_rng(0)
    boxes = np.stack([random_boxes(rng, 3000, 320) for _ in range(2)])
    scores = rng.permutation(6000).reshape(2, 3000).astype("float32") / 6000
    return boxes, scores, np.tile(np.arange(3000) // 1000, (2, 1))
