"""Checks of the images and targets that a network runs on outside of graphs."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


def as_images(images: Any) -> Any:
    """Returns images that can be sliced, or raises a `TypeError`."""
    if isinstance(images, (list, tuple)):
        images = [_as_array(f"images[{i}]", image) for i, image in enumerate(images)]
        return images
    if not hasattr(images, "shape") or not hasattr(images, "dtype"):
        raise TypeError(
            "`images` must be an array of shape (batch, height, width, 3), or a list "
            "of arrays of shape (height, width, 3). Received: a "
            f"{type(images).__name__}"
        )
    return _as_array("images", images)


def as_batch(images: Any) -> Any:
    """Returns a float32 batch of images, or raises a `ValueError`."""
    images = ops.cast(_as_array("images", images), "float32")
    if len(images.shape) != 4 or images.shape[-1] != 3:
        raise ValueError(
            "`images` must have shape (batch, height, width, 3). "
            f"Received: shape {tuple(images.shape)}"
        )
    return images


def as_sizes(sizes: Any, images: Sequence) -> np.ndarray:
    """Returns the sizes of padded images as integers, or raises a `ValueError`."""
    values = np.asarray(sizes)
    if values.shape != (len(images), 2) or values.dtype.kind not in "iu":
        raise ValueError(
            "`sizes` must hold the integers height and width of each image, of shape "
            f"({len(images)}, 2). Received: {values.dtype} of shape {values.shape}"
        )
    for i, (size, image) in enumerate(zip(values.tolist(), images)):
        largest = tuple(image.shape[:2])
        if not all(1 <= side <= most for side, most in zip(size, largest)):
            raise ValueError(
                "`sizes` must be from 1 pixel to the size of the padded image. "
                f"Received: {tuple(size)} for the image {i} of {largest} pixels"
            )
    return values


def as_pair(batch: Any) -> tuple:
    """Returns images and targets, or raises a `ValueError`."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        found = f"a {type(batch).__name__}"
        if isinstance(batch, (tuple, list)):
            found += f" of {len(batch)}"
        raise ValueError(
            "`data` must have batches (images, targets), such as those of "
            f"`data.detection_evaluation_batches`. Received: {found}"
        )
    return tuple(batch)


def check_sizes_of_targets(targets: Any, count: int) -> None:
    """Raises a `ValueError` unless targets have the sizes of padded images.

    Args:
        targets: Targets of a batch.
        count: Number of images.
    """
    found = type(targets).__name__
    if isinstance(targets, Mapping):
        found = f"a dict with the keys {sorted(targets)}"
        if "size" in targets:
            found = f"`size` of shape {tuple(np.shape(targets['size']))}"
            if np.shape(targets["size"]) == (count, 2):
                return
    raise ValueError(
        "`targets` must be None, or a dict with `size`, the height and width of each "
        f"image on its canvas, of shape ({count}, 2). Received: {found}"
    )


def _as_array(name: str, values: Any) -> Any:
    """Returns an array or a tensor of numbers, or raises a `TypeError`."""
    try:
        if isinstance(values, (list, tuple)):
            values = np.asarray(values)
        if _is_numeric(values):
            return values
        found = f"dtype {values.dtype}"
    except (AttributeError, TypeError, ValueError):
        found = f"a {type(values).__name__}"
    raise TypeError(f"`{name}` must be an array of numbers. Received: {found}")


def _is_numeric(values: Any) -> bool:
    dtype = keras.backend.standardize_dtype(values.dtype)
    return dtype.startswith(("int", "uint", "float", "bfloat"))
