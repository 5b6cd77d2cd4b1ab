"""Decoding of image files, with a limit on their size.

Graph operations only, so that a SavedModel can hold them.
"""

import tensorflow as tf

from keras_resadapt.data.checks import check_positive

# An image file of a few kilobytes can decode to gigabytes. The limit is compared with
# the size in the header, before any pixel is decoded.
MAX_PIXELS = 50_000_000

# TensorFlow's default is a faster inverse transform with errors of up to ten grey
# levels. This one gives the pixels of Pillow, on which published checkpoints were
# trained.
DCT_METHOD = "INTEGER_ACCURATE"


def decode(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Decodes one JPEG, PNG, GIF (first frame) or BMP image to RGB.

    Grey values are repeated over the three channels, palettes are looked up, and an
    alpha channel is dropped.

    Args:
        encoded: String scalar, the bytes of the file.
        max_pixels: Largest accepted height times width, a positive integer. It is
            compared with the size in the header before the image is decoded.

    Returns:
        uint8 tensor of shape (height, width, 3).

    Raises:
        ValueError: If `max_pixels` is not a positive integer.
        tf.errors.InvalidArgumentError: When run, if the image cannot be decoded or has
            more than `max_pixels` pixels.
    """
    size = image_size(encoded, max_pixels)
    with tf.control_dependencies([size]):
        encoded = tf.identity(encoded)
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT_METHOD),
        lambda: _by_format(
            encoded,
            lambda: tf.io.decode_png(encoded, channels=3),
            lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
            lambda: _decode_bmp(encoded),
        ),
    )
    return tf.ensure_shape(image, (None, None, 3))


def check_decodes(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Returns a shape that fails to compute exactly when `decode` fails.

    For JPEG, it costs less than `decode`.

    Args:
        encoded: String scalar, the bytes of the file.
        max_pixels: As for `decode`.

    Returns:
        int32 tensor of shape (3,).
    """
    size = image_size(encoded, max_pixels)
    with tf.control_dependencies([size]):
        encoded = tf.identity(encoded)
    return tf.cond(
        tf.io.is_jpeg(encoded),
        # At an eighth of the size, the whole file is still read and entropy-decoded,
        # which is where all errors arise.
        lambda: tf.shape(tf.io.decode_jpeg(encoded, channels=3, ratio=8)),
        lambda: tf.shape(decode(encoded, max_pixels)),
    )


def image_size(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Returns the height and width in the header of an image file.

    Args:
        encoded: String scalar, the bytes of a JPEG, PNG, GIF or BMP file.
        max_pixels: As for `decode`.

    Returns:
        int32 tensor of shape (2,): height and width in pixels. The size of a GIF is
        that of its screen.

    Raises:
        ValueError: If `max_pixels` is not a positive integer.
        tf.errors.InvalidArgumentError: When run, for another format or more than
            `max_pixels` pixels.
    """
    check_positive("max_pixels", max_pixels)
    encoded = tf.convert_to_tensor(encoded)
    size = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.cast(tf.image.extract_jpeg_shape(encoded)[:2], tf.int64),
        lambda: _by_format(
            encoded,
            lambda: _integers(encoded, 16, 2, 4, little_endian=False)[::-1],
            lambda: _integers(encoded, 6, 2, 2)[::-1],
            # The height is negative in files with the top row first.
            lambda: tf.abs(
                tf.cast(tf.cast(_integers(encoded, 18, 2, 4), tf.int32), tf.int64)
            )[::-1],
        ),
    )
    height, width = size[0], size[1]
    message = tf.strings.join(
        [
            "An image must have at most max_pixels=",
            str(max_pixels),
            " pixels. Received: ",
            tf.strings.as_string(height),
            " x ",
            tf.strings.as_string(width),
            " pixels",
        ]
    )
    # A division, because the product of two corrupt numbers can overflow.
    fits = height <= max_pixels // tf.maximum(width, 1)
    with tf.control_dependencies([tf.debugging.Assert(fits, [message])]):
        return tf.cast(size, tf.int32)


def _by_format(encoded, png, gif, bmp):
    """Returns the result of the function of the format; fails for other formats.

    `tf.io.decode_image` also accepts formats whose headers are not read here.
    """
    matches = tf.stack(
        [
            tf.equal(tf.strings.substr(encoded, 0, len(magic)), magic)
            for magic in (b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
        ]
    )
    check = tf.debugging.Assert(
        tf.reduce_any(matches), ["An image must be a JPEG, PNG, GIF or BMP file."]
    )
    with tf.control_dependencies([check]):
        return tf.switch_case(tf.argmax(matches, output_type=tf.int32), [png, gif, bmp])


def _integers(
    encoded: tf.Tensor, start: int, count: int, size: int, little_endian: bool = True
) -> tf.Tensor:
    """Reads `count` unsigned integers of `size` bytes each, as int64."""
    data = tf.io.decode_raw(tf.strings.substr(encoded, start, count * size), tf.uint8)
    # The length is wrong, and the reshape fails, where the file is too short.
    data = tf.reshape(tf.cast(data, tf.int64), (count, size))
    places = range(size) if little_endian else reversed(range(size))
    return tf.reduce_sum(data * [256**place for place in places], axis=1)


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP file with a palette of 256 colors, or 24 or 32 bits per pixel.

    TensorFlow ignores the palette and the compression.
    """
    palette_start = 14 + _integers(encoded, 14, 1, 4)[0]
    palette_end = _integers(encoded, 10, 1, 4)[0]
    header = _integers(encoded, 28, 1, 2)[0], _integers(encoded, 30, 1, 4)[0]
    bits, compression = header
    supported = tf.reduce_any(bits == [8, 24, 32]) & tf.reduce_any(
        compression == [0, 3]
    )
    check = tf.debugging.Assert(
        supported,
        [
            "A BMP file must have 8, 24 or 32 bits per pixel and no compression. "
            "Received: bits per pixel, compression =",
            *header,
        ],
    )
    with tf.control_dependencies([check]):
        encoded = tf.identity(encoded)

    def look_up():
        palette = tf.io.decode_raw(
            tf.strings.substr(encoded, palette_start, palette_end - palette_start),
            tf.uint8,
        )
        colors = tf.reshape(palette, (-1, 4))[:, 2::-1]  # from blue, green, red, 0
        indices = tf.cast(tf.io.decode_bmp(encoded)[..., 0], tf.int32)
        return tf.gather(colors, indices)

    return tf.cond(
        tf.equal(bits, 8),
        look_up,
        lambda: tf.io.decode_bmp(encoded)[..., :3],
    )
