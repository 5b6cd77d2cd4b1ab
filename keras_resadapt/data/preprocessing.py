"""From an encoded picture to the evaluation input of one resolution. Graph operations only, so that a SavedModel
can hold them."""

import tensorflow as tf

# TensorFlow's default is a faster inverse transform that errs by up to ten grey levels. This one gives Pillow's pixels,
# on which published checkpoints were trained.
DCT_METHOD = "INTEGER_ACCURATE"


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes one JPEG, PNG, GIF (first frame) or BMP to RGB.

    Grey pictures are repeated over the three channels, palettes are looked up, an alpha channel is dropped.

    Args:
        encoded: string scalar, the file's bytes.

    Returns:
        uint8 (height, width, 3). A picture that cannot be decoded raises `tf.errors.InvalidArgumentError` when run.
    """
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT_METHOD),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(image, (None, None, 3))


def check_decodes(encoded: tf.Tensor) -> tf.Tensor:
    """A shape (int32) that fails to compute exactly when `decode` fails, cheaper than `decode` for JPEG."""
    return tf.cond(
        tf.io.is_jpeg(encoded),
        # At an eighth of the size the whole file is still read and entropy-decoded, where all errors arise.
        lambda: tf.shape(tf.io.decode_jpeg(encoded, channels=3, ratio=8)),
        lambda: tf.shape(decode(encoded)),
    )


def preprocess(
    images: tf.Tensor, resolution: int, crop_fraction: float = 0.875
) -> tf.Tensor:
    """The evaluation view of decoded pictures: short side resized to `int(resolution / crop_fraction)`, centre crop.

    Bilinear with antialiasing. The long side keeps the aspect ratio, rounded down, as in torchvision.

    Source: RS-Net, section 4.1 (crop fraction 0.875).

    Args:
        images: uint8 or float (..., height, width, 3) with at most one leading dimension, values in [0, 255].
        resolution: side of the result in pixels, a positive int.
        crop_fraction: resolution divided by the resized short side, in (0, 1]; 1.0 crops nothing off the short side.

    Returns:
        float32 (..., resolution, resolution, 3), values in [0, 255].

    Raises:
        ValueError: `resolution` or `crop_fraction` outside its range.
    """
    check_resolution(resolution)
    check_crop_fraction(crop_fraction)
    single = images.shape.rank == 3
    batch = images[tf.newaxis] if single else images
    old = tf.shape(batch)[1:3]
    # Ratios of integers up to a few thousand: the floor is exact in integer arithmetic.
    new = int(resolution / crop_fraction) * old // tf.reduce_min(old)
    offset = tf.round(tf.cast(new - resolution, tf.float32) / 2)
    # One operation resizes and crops: what the crop removes is never computed.
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
    encoded: tf.Tensor, resolution: int, crop_fraction: float = 0.875
) -> tf.Tensor:
    """The evaluation view of one encoded picture: `decode`, then `preprocess`, exactly as in `evaluation_batches`.

    Args:
        encoded: string scalar, the bytes of a JPEG, PNG, GIF or BMP file.
        resolution: side of the result in pixels, a positive int.
        crop_fraction: see `preprocess`.

    Returns:
        float32 (resolution, resolution, 3), values in [0, 255].

    Raises:
        ValueError: `resolution` or `crop_fraction` outside its range.
    """
    check_resolution(resolution)
    check_crop_fraction(crop_fraction)
    return preprocess(decode(encoded), resolution, crop_fraction)


def check_resolution(resolution: int, argument: str = "resolution") -> None:
    """Raises a ValueError unless `resolution` is a positive int."""
    # `bool` is an `int`; operator.index also lets NumPy integers pass.
    if (
        isinstance(resolution, bool)
        or not hasattr(resolution, "__index__")
        or resolution < 1
    ):
        raise ValueError(
            f"{argument} must be a positive integer (pixels); got {resolution!r}."
        )


def check_crop_fraction(crop_fraction: float) -> None:
    """Raises a ValueError unless `crop_fraction` is in (0, 1]."""
    if not 0.0 < crop_fraction <= 1.0:
        raise ValueError(
            f"crop_fraction must be greater than 0 and at most 1; got {crop_fraction!r}."
        )
