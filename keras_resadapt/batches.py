"""Iteration over the batches of a data set, and images at other resolutions."""

from collections.abc import Iterable, Iterator

import keras
import numpy as np
from keras import ops

from keras_resadapt.layers import resize_bilinear


def labelled_batches(
    data: Iterable, verbose: bool = True
) -> Iterator[tuple[object, np.ndarray]]:
    """Iterates once over a data set with class labels.

    Args:
        data: Batches (images, labels), for example from
            `data.evaluation_batches`: images are a tensor of shape (batch,
            height, width, 3) or a tuple of such tensors, one per resolution;
            labels are class indices of shape (batch,).
        verbose: Whether to show a progress bar.

    Yields:
        The images, unchanged, and the labels as an integer array (batch,).

    Raises:
        ValueError: If there are no batches, a batch is not a pair, images
            have another shape or values that are not finite, or labels are
            not class indices or not one per image.
    """
    for number, images, labels in _pairs(data, verbose, "labels"):
        labels = ops.convert_to_numpy(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                "The labels in `data` must be class indices, integers of shape "
                f"(batch,). Received: {labels.dtype} of shape {labels.shape}"
            )
        _check_images(images, number)
        for view in _views(images):
            if len(view) != len(labels):
                raise ValueError(
                    f"Batch {number} of `data` must have one label per image. "
                    f"Received: {len(view)} images, {len(labels)} labels"
                )
        yield images, labels


def target_batches(data: Iterable, verbose: bool = True) -> Iterator[tuple]:
    """Iterates once over a data set with targets of any kind.

    Args:
        data: Batches (images, targets); images as for `labelled_batches`.
        verbose: Whether to show a progress bar.

    Yields:
        The images and the targets as tensors.

    Raises:
        ValueError: If there are no batches, a batch is not a pair, or images have
            another shape or values that are not finite.
    """
    for number, images, targets in _pairs(data, verbose, "targets"):
        _check_images(images, number)
        yield images, ops.convert_to_tensor(targets)


def first_images(data: Iterable, num_images: int, verbose: bool = True) -> Iterator:
    """Iterates over the first images of a data set.

    Args:
        data: Batches of images, or tuples whose first element is the images
            and whose other elements are ignored. Images are a tensor of shape
            (batch, height, width, 3). In a tuple, they can also be a tuple of
            such tensors, one per resolution.
        num_images: How many images to yield in total, if there are as many.
        verbose: Whether to show a progress bar.

    Yields:
        The images of each batch. The last batch is cut to the number of
        images that are still missing.

    Raises:
        ValueError: If there are no batches, or images have another shape or
            values that are not finite.
    """
    progress = keras.utils.Progbar(num_images, unit_name="image", verbose=int(verbose))
    missing = num_images
    for number, batch in _batches(data, verbose=False):
        images = batch
        if isinstance(batch, (tuple, list)) and len(batch):
            images = batch[0]
        _check_images(images, number)
        if isinstance(images, (tuple, list)):
            images = tuple(view[:missing] for view in images)
        else:
            images = images[:missing]
        yield images
        missing -= len(_views(images)[0])
        progress.update(num_images - missing)
        if missing <= 0:
            return
    progress.target = num_images - missing
    progress.update(progress.target, finalize=True)


def _batches(data, verbose) -> Iterator[tuple[int, object]]:
    """Yields the batches of a data set, numbered from 1, with a progress bar."""
    try:
        length = len(data)
    except TypeError:  # a generator, or a tf.data set of unknown length
        length = None
    progress = keras.utils.Progbar(length, unit_name="batch", verbose=int(verbose))
    number = 0
    for number, batch in enumerate(data, 1):
        yield number, batch
        progress.update(number)
    if not number:
        raise ValueError("`data` must have at least one batch. It has no batches.")
    if length != number:
        progress.update(number, finalize=True)


def _pairs(data, verbose, second: str) -> Iterator[tuple]:
    """Yields the number, the images and what belongs to them, of each batch."""
    for number, batch in _batches(data, verbose):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                f"`data` must yield batches (images, {second}). "
                f"Received: {_describe(batch)}"
            )
        yield number, *batch


def _views(images) -> tuple:
    """Returns the tensors of a batch of images, one per resolution."""
    return tuple(images) if isinstance(images, (tuple, list)) else (images,)


def _check_images(images, number: int) -> None:
    """Raises a `ValueError` unless all tensors hold finite RGB images."""
    views = _views(images)
    for view in views or (images,):
        shape = getattr(view, "shape", None)
        if shape is None or len(shape) != 4 or shape[-1] != 3:
            raise ValueError(
                "The images in `data` must have shape (batch, height, width, 3). "
                f"Received: {_describe(view)} in batch {number}"
            )
        if len(view) != len(views[0]) or not len(view):
            raise ValueError(
                f"Batch {number} of `data` must have at least one image, and "
                "equally many at every resolution. "
                f"Received: {[len(view) for view in views]} images"
            )
        check_finite(view, f"Batch {number} of `data`")


def _describe(value) -> str:
    """Returns the type of a value, and its keys, length or shape."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return f"a {kind} with the keys {list(value)}"
    if isinstance(value, (tuple, list)):
        return f"a {kind} of {len(value)} elements"
    if hasattr(value, "shape"):
        return f"a {kind} of shape {tuple(value.shape)}"
    return f"a {kind}"


def check_finite(images, name: str) -> None:
    """Raises a `ValueError` if pixels are NaN or infinite.

    The logits of such images can be finite, because oneDNN's fused ReLU turns
    NaN into zero.

    Args:
        images: Array or tensor of shape (batch, height, width, 3).
        name: What the images are, for the error message.
    """
    finite = np.isfinite(ops.convert_to_numpy(images))
    if not finite.all():
        finite = finite.all(axis=(1, 2, 3))
        rows = np.flatnonzero(~finite)
        raise ValueError(
            f"{name} must hold finite pixel values. Received: NaN or infinity "
            f"in the images {rows[:10].tolist()}"
            f"{', ...' if len(rows) > 10 else ''}"
        )


def view_at_point(model, images, point):
    """Returns the images of a batch at an operating point, in their own shape.

    Args:
        model: A network.
        images: Tensor of shape (batch, height, width, 3) at the largest resolution,
            or a tuple with one tensor per resolution. Images that are not square are
            scaled as in `fit`, where the task permits any shape.
        point: The operating point.

    Raises:
        ValueError: If the images do not fit the point.
    """
    views = _views(images)
    height, width = views[0].shape[1:3]
    resolution = model.resolution_of(point)
    if height == width or not model.task.any_shape:
        return images_at(images, resolution)
    if len(views) == len(model.resolutions):
        view = views[model.resolutions.index(resolution)]
    else:
        largest = ops.cast(views[0], "float32")
        view = resize_bilinear(largest, model.scaled_size(largest, resolution))
    model.check_size(view, point)
    return view


def images_at(images, resolution: int, any_shape: bool = False):
    """Returns the images of a batch at one resolution.

    Args:
        images: Tensor of shape (batch, size, size, 3), or a tuple of such
            tensors of different sizes.
        resolution: Height and width in pixels.
        any_shape: Whether images of another shape, whose short side has the
            resolution, are returned too.

    Returns:
        The tensor of that size if there is one. Otherwise the largest tensor,
        resized down with antialiasing, as float32.

    Raises:
        ValueError: If the largest images are not square or are smaller than
            the resolution.
    """
    views = _views(images)
    sizes = [tuple(view.shape[1:3]) for view in views]
    if (resolution, resolution) in sizes:
        return views[sizes.index((resolution, resolution))]
    short_sides = [min(size) for size in sizes]
    if any_shape and resolution in short_sides:
        return views[short_sides.index(resolution)]
    largest = views[int(np.argmax([height for height, _ in sizes]))]
    height, width = largest.shape[1:3]
    if height != width or height < resolution:
        raise ValueError(
            f"The images in `data` must be square, with at least {resolution} pixels "
            f"per side. Received: {' and '.join(f'{h} x {w}' for h, w in sizes)}"
        )
    return resize_bilinear(
        ops.cast(ops.convert_to_tensor(largest), "float32"), resolution
    )
