"""The evaluation input of one resolution.

Graph operations only, so that a SavedModel can hold them.
"""

import tensorflow as tf

from keras_resadapt.data.augmentation import resize
from keras_resadapt.data.checks import check_crop_fraction
from keras_resadapt.data.decoding import MAX_PIXELS, decode
from keras_resadapt.number_checks import check_integer


def preprocess(
    images: tf.Tensor, resolution: int, crop_fraction: float = 0.875
) -> tf.Tensor:
    """Resizes the short side of images and crops the center.

    The short side becomes `int(resolution / crop_fraction)` pixels long. The long side
    keeps the aspect ratio, rounded down, as in torchvision. Resizing is bilinear and
    antialiased.

    Source: RS-Net, section 4.1 (crop fraction 0.875).

    Args:
        images: uint8 or float (..., height, width, 3) with at most one leading
            dimension, values in [0, 255].
        resolution: Side of the result in pixels, a positive integer.
        crop_fraction: Resolution divided by the resized short side, in (0, 1]. With
            1.0, the whole short side is visible.

    Returns:
        float32 (..., resolution, resolution, 3), values in [0, 255].

    Raises:
        ValueError: If `resolution` or `crop_fraction` is outside its range.
    """
    check_integer(resolution, "resolution", unit="pixels")
    check_crop_fraction(crop_fraction)
    single = images.shape.rank == 3
    batch = images[tf.newaxis] if single else images
    old = tf.shape(batch)[1:3]
    # Ratios of integers up to a few thousand: the floor is exact in integer arithmetic.
    new = int(resolution / crop_fraction) * old // tf.reduce_min(old)
    offset = tf.round(tf.cast(new - resolution, tf.float32) / 2)
    # One operation resizes and crops, and never computes what the crop removes.
    result = tf.raw_ops.ScaleAndTranslate(
        images=batch,
        size=[resolution, resolution],
        scale=tf.cast(new, tf.float32) / tf.cast(old, tf.float32),
        translation=-offset,
        kernel_type="triangle",
        antialias=True,
    )
    return result[0] if single else result


def preprocess_encoded(
    encoded: tf.Tensor,
    resolution: int,
    crop_fraction: float = 0.875,
    max_pixels: int = MAX_PIXELS,
) -> tf.Tensor:
    """Decodes and preprocesses one image file exactly as `evaluation_batches` does.

    Args:
        encoded: String scalar, the bytes of a JPEG, PNG, GIF or BMP file.
        resolution: Side of the result in pixels, a positive integer.
        crop_fraction: As for `preprocess`.
        max_pixels: Largest accepted height times width of the file, a positive
            integer. It is compared with the size in the header before the image is
            decoded.

    Returns:
        float32 (resolution, resolution, 3), values in [0, 255].

    Raises:
        ValueError: If `resolution`, `crop_fraction` or `max_pixels` is outside its
            range.
        tf.errors.InvalidArgumentError: When run, if the image cannot be decoded or has
            more than `max_pixels` pixels.
    """
    check_integer(resolution, "resolution", unit="pixels")
    check_crop_fraction(crop_fraction)
    return preprocess(decode(encoded, max_pixels), resolution, crop_fraction)


def short_side_size(shape, resolution: int, stride: int):
    """Returns the size of an image whose short side becomes `resolution`.

    The long side keeps the aspect ratio, and is rounded to a multiple of `stride`.

    Args:
        shape: Height and width: a tuple of integers, or an int32 tensor of shape (2,).
        resolution: The new short side in pixels.
        stride: Stride of the network.
    """
    if isinstance(shape, tuple):
        short, long = min(shape), max(shape)
        new_long = max(round(resolution * long / short / stride) * stride, resolution)
        if short == long:  # a square is square at every resolution
            new_long = resolution
        return tuple(resolution if side == short else new_long for side in shape)
    short, long = tf.reduce_min(shape), tf.reduce_max(shape)
    multiple = tf.round(resolution * long / short / stride)
    new_long = tf.maximum(tf.cast(multiple, tf.int32) * stride, resolution)
    new_long = tf.where(tf.equal(short, long), resolution, new_long)
    return tf.where(tf.equal(shape, short), resolution, new_long)


def resize_short_side(image: tf.Tensor, resolution: int, stride: int) -> tf.Tensor:
    """Resizes a whole image as `segmentation_evaluation_batches` does.

    Args:
        image: Tensor of shape (height, width, 3).
        resolution, stride: As for `short_side_size`.

    Returns:
        float32 tensor of the new size, values in [0, 255].
    """
    size = short_side_size(tf.shape(image)[:2], resolution, stride)
    return resize(image, size[0], size[1])
