"""Random crops and flips as pure functions of uniform random numbers, so that the caller decides on the seeds."""

import math

import tensorflow as tf

from keras_resadapt.data.preprocessing import DCT_METHOD, decode

ATTEMPTS = 10
# Random numbers that one view takes: area and aspect ratio per attempt, vertical and horizontal position, flip.
UNIFORMS = 2 * ATTEMPTS + 3


def random_resized_box(
    height: tf.Tensor,
    width: tf.Tensor,
    uniforms: tf.Tensor,
    area_range: tuple[float, float] = (0.08, 1.0),
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3),
) -> tf.Tensor:
    """The box of a random crop: area drawn uniformly from one range, aspect ratio log-uniformly from another.

    The first of ten drawn boxes that fits into the picture is taken (so that large areas come less often where the
    aspect ratios do not suit the picture). If none does, the box is the whole picture, or its largest centred part
    with an allowed aspect ratio. This is the distribution of torchvision's RandomResizedCrop, which the paper names.

    `tf.image.sample_distorted_bounding_box` is not used because it draws the height uniformly, not the area.

    Source: RS-Net, section 4.1 and appendix E.

    Args:
        height, width: int32 scalars, the size of the picture.
        uniforms: float32 (..., `UNIFORMS`), numbers uniform in [0, 1).
        area_range: share of the picture's area, lowest and highest, in (0, 1].
        aspect_range: width divided by height, lowest and highest, positive.

    Returns:
        int32 (..., 4): top, left, height, width of the box.
    """
    uniforms = tf.convert_to_tensor(uniforms)
    picture_h, picture_w = (
        tf.cast(height, tf.float32),
        tf.cast(width, tf.float32),
    )
    low, high = area_range
    area = picture_h * picture_w * (low + (high - low) * uniforms[..., :ATTEMPTS])
    log_low, log_high = math.log(aspect_range[0]), math.log(aspect_range[1])
    aspect = tf.exp(
        log_low + (log_high - log_low) * uniforms[..., ATTEMPTS : 2 * ATTEMPTS]
    )
    box_h, box_w = (
        tf.round(tf.sqrt(area / aspect)),
        tf.round(tf.sqrt(area * aspect)),
    )
    fits = (box_h >= 1) & (box_w >= 1) & (box_h <= picture_h) & (box_w <= picture_w)
    first = tf.argmax(fits, axis=-1, output_type=tf.int32)[..., tf.newaxis]
    found = tf.reduce_any(fits, axis=-1)
    rank = uniforms.shape.rank - 1
    box_h = tf.gather(box_h, first, batch_dims=rank)[..., 0]
    box_w = tf.gather(box_w, first, batch_dims=rank)[..., 0]
    # At least one pixel, for pictures that are nearly lines.
    fallback_h = tf.maximum(
        tf.minimum(picture_h, tf.round(picture_w / aspect_range[0])), 1.0
    )
    fallback_w = tf.maximum(
        tf.minimum(picture_w, tf.round(picture_h * aspect_range[1])), 1.0
    )
    box_h = tf.where(found, box_h, fallback_h)
    box_w = tf.where(found, box_w, fallback_w)
    top = tf.where(
        found,
        _position(uniforms[..., -3], picture_h - box_h),
        tf.floor((picture_h - box_h) / 2),
    )
    left = tf.where(
        found,
        _position(uniforms[..., -2], picture_w - box_w),
        tf.floor((picture_w - box_w) / 2),
    )
    return tf.cast(tf.stack([top, left, box_h, box_w], axis=-1), tf.int32)


def crop_picture(picture: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Cuts a box (top, left, height, width) out of a picture.

    Args:
        picture: encoded bytes (string scalar) or a decoded picture (height, width, 3).
        box: int32 (4,), inside the picture.

    Returns:
        (box height, box width, 3), uint8 for encoded bytes, else the picture's type.
    """
    if picture.dtype != tf.string:
        return _slice(picture, box)
    # Decoding only the box saves most of the time of a small crop of a large JPEG. A JPEG without its end marker may
    # be truncated: it is decoded whole, so that it fails whatever the box is.
    whole_jpeg = tf.io.is_jpeg(picture) & tf.equal(
        tf.strings.substr(picture, -2, 2), b"\xff\xd9"
    )
    crop = tf.cond(
        whole_jpeg,
        lambda: tf.io.decode_and_crop_jpeg(
            picture, box, channels=3, dct_method=DCT_METHOD
        ),
        lambda: _slice(decode(picture), box),
    )
    return tf.ensure_shape(crop, (None, None, 3))


def picture_size(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Height and width (int32 scalars) of a picture, encoded or not; a JPEG is not decoded for it."""
    if picture.dtype != tf.string:
        shape = tf.shape(picture)
    else:
        shape = tf.cond(
            tf.io.is_jpeg(picture),
            lambda: tf.image.extract_jpeg_shape(picture),
            lambda: tf.shape(decode(picture)),
        )
    return shape[0], shape[1]


def resize(
    image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor
) -> tf.Tensor:
    """Bilinear antialiased resize of one picture (height, width, 3) to float32."""
    old = tf.shape(image)
    # Antialiasing changes nothing when both sides grow, and costs about half of the pipeline's speed.
    return tf.cond(
        (old[0] <= height) & (old[1] <= width),
        lambda: tf.image.resize(image, (height, width), method="bilinear"),
        lambda: tf.image.resize(
            image, (height, width), method="bilinear", antialias=True
        ),
    )


def pad_and_crop(
    image: tf.Tensor, resolution: int, padding: int, uniforms: tf.Tensor
) -> tf.Tensor:
    """Zero-pads all sides and takes a random square, the usual augmentation of CIFAR.

    Args:
        image: (height, width, 3), both sides at least `resolution` - 2 * `padding`.
        resolution: side of the result.
        padding: pixels added on each side, at least 0.
        uniforms: float32 (`UNIFORMS`,), numbers uniform in [0, 1).

    Returns:
        (resolution, resolution, 3) of the same type.
    """
    padded = tf.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    room = tf.cast(tf.shape(padded)[:2] - resolution, tf.float32)
    corner = tf.cast(_position(uniforms[-3:-1], room), tf.int32)
    return tf.slice(padded, [corner[0], corner[1], 0], [resolution, resolution, 3])


def random_flip(image: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    """Mirrors left and right in half of the cases; `uniforms` is float32 (`UNIFORMS`,)."""
    return tf.cond(
        uniforms[-1] < 0.5, lambda: tf.reverse(image, axis=[1]), lambda: image
    )


def _position(uniform: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    # A float32 just below 1 times (room + 1) may round up to room + 1.
    return tf.minimum(tf.floor(uniform * (room + 1)), room)


def _slice(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
