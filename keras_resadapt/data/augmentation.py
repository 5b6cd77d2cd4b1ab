"""Random crops and flips as pure functions of uniform random numbers.

The caller chooses the seeds.
"""

import math

import tensorflow as tf

from keras_resadapt.data import decoding

ATTEMPTS = 10
# Random numbers for one view: area and aspect ratio for each attempt, vertical and
# horizontal position, flip.
UNIFORMS = 2 * ATTEMPTS + 3


def random_resized_box(
    height: tf.Tensor,
    width: tf.Tensor,
    uniforms: tf.Tensor,
    area_range: tuple[float, float] = (0.08, 1.0),
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3),
) -> tf.Tensor:
    """Returns the box of a random crop.

    The area is drawn uniformly and the aspect ratio log-uniformly. The first of ten
    drawn boxes that fits into the image is taken, so that large areas are rarer where
    the aspect ratios do not suit the image. If none fits, the box is the whole image,
    or its largest centered part with an allowed aspect ratio. This is the distribution
    of torchvision's RandomResizedCrop, which the paper names.

    `tf.image.sample_distorted_bounding_box` is not used because it draws the height
    uniformly, not the area.

    Source: RS-Net, section 4.1 and appendix E.

    Args:
        height, width: int32 scalars, the size of the image.
        uniforms: float32 (..., `UNIFORMS`), numbers uniform in [0, 1).
        area_range: Lowest and highest fraction of the image's area, in (0, 1].
        aspect_range: Lowest and highest width divided by height, positive.

    Returns:
        int32 (..., 4): top, left, height and width of the box.
    """
    uniforms = tf.convert_to_tensor(uniforms)
    image_h, image_w = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    low, high = area_range
    area = image_h * image_w * (low + (high - low) * uniforms[..., :ATTEMPTS])
    log_low, log_high = math.log(aspect_range[0]), math.log(aspect_range[1])
    aspect = tf.exp(
        log_low + (log_high - log_low) * uniforms[..., ATTEMPTS : 2 * ATTEMPTS]
    )
    box_h = tf.round(tf.sqrt(area / aspect))
    box_w = tf.round(tf.sqrt(area * aspect))
    fits = (box_h >= 1) & (box_w >= 1) & (box_h <= image_h) & (box_w <= image_w)
    first = tf.argmax(fits, axis=-1, output_type=tf.int32)[..., tf.newaxis]
    found = tf.reduce_any(fits, axis=-1)
    rank = uniforms.shape.rank - 1
    box_h = tf.gather(box_h, first, batch_dims=rank)[..., 0]
    box_w = tf.gather(box_w, first, batch_dims=rank)[..., 0]
    # At least one pixel, for images that are nearly lines.
    fallback_h = tf.maximum(
        tf.minimum(image_h, tf.round(image_w / aspect_range[0])), 1.0
    )
    fallback_w = tf.maximum(
        tf.minimum(image_w, tf.round(image_h * aspect_range[1])), 1.0
    )
    box_h = tf.where(found, box_h, fallback_h)
    box_w = tf.where(found, box_w, fallback_w)
    top = tf.where(
        found,
        _position(uniforms[..., -3], image_h - box_h),
        tf.floor((image_h - box_h) / 2),
    )
    left = tf.where(
        found,
        _position(uniforms[..., -2], image_w - box_w),
        tf.floor((image_w - box_w) / 2),
    )
    return tf.cast(tf.stack([top, left, box_h, box_w], axis=-1), tf.int32)


def crop_image(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Crops a box out of an image.

    Args:
        image: The bytes of an image file (string scalar) or a decoded image
            (height, width, 3).
        box: int32 (4,): top, left, height and width, inside the image.

    Returns:
        (box height, box width, 3), uint8 for the bytes of a file, otherwise of the
        type of the image.
    """
    if image.dtype != tf.string:
        return _slice(image, box)
    # Decoding only the box saves most of the time of a small crop of a large JPEG. A
    # JPEG without its end marker can be truncated. It is decoded as a whole, so that
    # it fails for every box.
    whole_jpeg = tf.io.is_jpeg(image) & tf.equal(
        tf.strings.substr(image, -2, 2), b"\xff\xd9"
    )
    crop = tf.cond(
        whole_jpeg,
        lambda: tf.io.decode_and_crop_jpeg(
            image, box, channels=3, dct_method=decoding.DCT_METHOD
        ),
        lambda: _slice(decoding.decode(image), box),
    )
    return tf.ensure_shape(crop, (None, None, 3))


def image_size(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the height and width of an image, int32 scalars.

    Args:
        image: The bytes of an image file (string scalar), which is not decoded, or a
            decoded image (height, width, 3).
    """
    if image.dtype == tf.string:
        size = decoding.image_size(image)
    else:
        size = tf.shape(image)
    return size[0], size[1]


def resize(
    image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor
) -> tf.Tensor:
    """Resizes one image (height, width, 3) to float32, bilinearly and antialiased."""
    old = tf.shape(image)
    # Antialiasing changes nothing when both sides grow, and costs about half of the
    # pipeline's speed.
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
    """Pads all sides with zeros and takes a random square, as is usual for CIFAR.

    Args:
        image: (height, width, 3), both sides at least `resolution` - 2 * `padding`.
        resolution: Side of the result in pixels.
        padding: Pixels added on each side, at least 0.
        uniforms: float32 (`UNIFORMS`,), numbers uniform in [0, 1).

    Returns:
        (resolution, resolution, 3) of the type of the image.
    """
    padded = tf.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    room = tf.cast(tf.shape(padded)[:2] - resolution, tf.float32)
    corner = tf.cast(_position(uniforms[-3:-1], room), tf.int32)
    return tf.slice(padded, [corner[0], corner[1], 0], [resolution, resolution, 3])


def random_flip(image: tf.Tensor, uniforms: tf.Tensor) -> tf.Tensor:
    """Mirrors an image left to right in half of the cases.

    Args:
        image: (height, width, channels).
        uniforms: float32 (..., at least 1), numbers uniform in [0, 1). The last one
            decides.
    """
    return tf.cond(
        uniforms[-1] < 0.5, lambda: tf.reverse(image, axis=[1]), lambda: image
    )


def _position(uniform: tf.Tensor, room: tf.Tensor) -> tf.Tensor:
    # A float32 just below 1 times (room + 1) can round up to room + 1.
    return tf.minimum(tf.floor(uniform * (room + 1)), room)


def _slice(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
