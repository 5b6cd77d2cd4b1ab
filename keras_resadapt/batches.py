"""Data sets, batch by batch, and the same pictures at several resolutions."""

from collections.abc import Iterable, Iterator

import keras
import numpy as np
from keras import ops

from keras_resadapt.layers import resize_bilinear


def labelled_batches(
    data: Iterable, verbose: bool = True
) -> Iterator[tuple[object, np.ndarray]]:
    """Goes once through a data set, with a progress bar.

    Args:
        data: Batches of (images, labels), such as `data.evaluation_batches`
            gives: images a tensor (batch, height, width, 3), or a tuple of
            such tensors, one a resolution; labels class indices (batch,).
        verbose: Whether to show the progress.

    Yields:
        (images as they came, labels as an integer array (batch,)).

    Raises:
        ValueError: No batch, a batch that is not a pair, labels that are not
            class indices or not one an image, or pixels that are not finite.
    """
    try:
        length = len(data)
    except TypeError:  # a generator, or a tf.data set of unknown length
        length = None
    progress = keras.utils.Progbar(length, unit_name="batch", verbose=int(verbose))
    number = 0
    for number, batch in enumerate(data, 1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                "`data` must give batches (images, labels). "
                f"Received: a {type(batch).__name__}"
            )
        images, labels = batch
        labels = ops.convert_to_numpy(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                "Labels must be class indices, integers of shape (batch,). "
                f"Received: {labels.dtype} of shape {labels.shape}"
            )
        for view in images if isinstance(images, (tuple, list)) else (images,):
            if len(view) != len(labels) or not len(labels):
                raise ValueError(
                    f"Batch {number} of `data` must have a label an image. "
                    f"Received: {len(view)} images, {len(labels)} labels"
                )
            check_finite(view, f"Batch {number} of `data`")
        yield images, labels
        progress.update(number)
    if not number:
        raise ValueError("`data` has no batches.")
    if length != number:
        progress.update(number, finalize=True)


def check_finite(images, name: str) -> None:
    """Raises a `ValueError` where pixels are NaN or infinite.

    The answers would not show it: a fused ReLU makes zero of NaN.

    Args:
        images: Array or tensor of shape (batch, height, width, 3).
        name: What they are, for the message.
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


def images_at(images, resolution: int):
    """The images of a batch at a resolution.

    Args:
        images: Tensor (batch, size, size, 3), or a tuple of such tensors.
        resolution: Height and width in pixels.

    Returns:
        The tensor of that size, or else the largest one, resized down,
        antialiased.
    """
    views = images if isinstance(images, (tuple, list)) else (images,)
    sizes = [tuple(view.shape[1:3]) for view in views]
    if (resolution, resolution) in sizes:
        return views[sizes.index((resolution, resolution))]
    largest = views[int(np.argmax([height for height, _ in sizes]))]
    height, width = largest.shape[1:3]
    if height != width or height < resolution:
        raise ValueError(
            f"The data must have square images of at least {resolution} "
            f"pixels. Received: {' and '.join(f'{h} x {w}' for h, w in sizes)}"
        )
    return resize_bilinear(
        ops.cast(ops.convert_to_tensor(largest), "float32"), resolution
    )
