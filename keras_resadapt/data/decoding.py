"""Decoding of image files, with a limit on their size.

Graph operations only, so that a SavedModel can hold them.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_resadapt.number_checks import check_integer

# An image file of a few kilobytes can decode to gigabytes. The limit is compared with
# the size in the header, before any pixel is decoded.
MAX_PIXELS = 50_000_000

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

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
    check_integer(max_pixels, "max_pixels")
    image = _by_format(
        encoded,
        lambda size_of, decode_file: decode_file(
            _checked(encoded, size_of(encoded), max_pixels)
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

    def decode_jpeg():
        checked = _checked(encoded, _jpeg_size(encoded), max_pixels)
        # At an eighth of the size, the whole file is still read and entropy-decoded,
        # which is where all errors arise.
        return tf.io.decode_jpeg(checked, channels=3, ratio=8)

    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.shape(decode_jpeg()),
        lambda: tf.shape(decode(encoded, max_pixels)),
    )


def decode_mask(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Decodes the class labels of one PNG file.

    Args:
        encoded: String scalar, the bytes of a grayscale PNG file with 8 bits per pixel.
            TensorFlow would turn a palette into colors, and labels of fewer bits into
            other numbers.
        max_pixels: As for `decode`.

    Returns:
        uint8 tensor of shape (height, width).

    Raises:
        tf.errors.InvalidArgumentError: When run, if the file is of another type or
            cannot be decoded.
    """
    kind = tf.strings.substr(encoded, 24, 2)  # bits per pixel and color type
    check = tf.debugging.Assert(
        tf.equal(tf.strings.substr(encoded, 0, 8), PNG_MAGIC)
        & tf.equal(kind, b"\x08\x00"),
        ["A mask must be a grayscale PNG file with 8 bits per pixel and no palette."],
    )
    with tf.control_dependencies([check]):
        encoded = _checked(encoded, _png_size(encoded), max_pixels)
    mask = tf.io.decode_png(encoded, channels=1)[..., 0]
    return tf.ensure_shape(mask, (None, None))


def image_size(encoded: tf.Tensor, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """Returns the height and width in the header of an image file.

    Args:
        encoded: String scalar, the bytes of a JPEG, PNG, GIF or BMP file.
        max_pixels: As for `decode`.

    Returns:
        int32 tensor of shape (2,): height and width in pixels. The size of a GIF is
        that of its screen.

    Raises:
        tf.errors.InvalidArgumentError: When run, for another format or more than
            `max_pixels` pixels.
    """

    def checked_size(size_of, decode_file):
        size = size_of(encoded)
        return _checked(size, size, max_pixels)

    return _by_format(encoded, checked_size)


def _by_format(encoded: tf.Tensor, function: Callable) -> tf.Tensor:
    """Calls a function of (size function, decoding function) for the file's format.

    Fails for other formats. `tf.io.decode_image` also accepts formats whose headers
    are not read here.
    """

    def other():
        matches = tf.stack(
            [
                tf.equal(tf.strings.substr(encoded, 0, len(magic)), magic)
                for magic in (PNG_MAGIC, b"GIF8", b"BM")
            ]
        )
        check = tf.debugging.Assert(
            tf.reduce_any(matches), ["An image must be a JPEG, PNG, GIF or BMP file."]
        )
        with tf.control_dependencies([check]):
            index = tf.argmax(matches, output_type=tf.int32)
        return tf.switch_case(
            index,
            [
                lambda: function(_png_size, _decode_png),
                lambda: function(_gif_size, _decode_gif),
                lambda: function(_bmp_size, _decode_bmp),
            ],
        )

    return tf.cond(
        tf.io.is_jpeg(encoded), lambda: function(_jpeg_size, _decode_jpeg), other
    )


def _checked(value: tf.Tensor, size: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Returns `value` if the size is within the limit, otherwise fails."""
    # A division, because the product of two corrupt numbers can overflow.
    fits = size[0] <= max_pixels // tf.maximum(size[1], 1)
    message = (
        f"An image must have at most max_pixels={max_pixels} pixels. "
        "Received: height and width ="
    )
    check = tf.debugging.Assert(fits, [message, size[0], size[1]])
    with tf.control_dependencies([check]):
        return tf.identity(value)


def _jpeg_size(encoded: tf.Tensor) -> tf.Tensor:
    return tf.image.extract_jpeg_shape(encoded)[:2]


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_jpeg(encoded, channels=3, dct_method=DCT_METHOD)


def _png_size(encoded: tf.Tensor) -> tf.Tensor:
    return _to_int32(_integers(encoded, 16, 2, 4, little_endian=False)[::-1])


def _decode_png(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_png(encoded, channels=3)


def _gif_size(encoded: tf.Tensor) -> tf.Tensor:
    return _to_int32(_integers(encoded, 6, 2, 2)[::-1])


def _decode_gif(encoded: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(encoded, channels=3, expand_animations=False)


def _bmp_size(encoded: tf.Tensor) -> tf.Tensor:
    size = _integers(encoded, 18, 2, 4)[::-1]
    # Heights above 2**31 stand for negative ones: the top row comes first.
    return _to_int32(tf.minimum(size, tf.abs(size - 2**32)))


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP file with a palette of 256 colors, or 24 or 32 bits per pixel.

    TensorFlow ignores the palette and the compression.
    """
    palette_start = 14 + _integers(encoded, 14, 1, 4)[0]
    palette_end = _integers(encoded, 10, 1, 4)[0]
    bits = _integers(encoded, 28, 1, 2)[0]
    compression = _integers(encoded, 30, 1, 4)[0]
    check = tf.debugging.Assert(
        tf.reduce_any(bits == [8, 24, 32]) & tf.reduce_any(compression == [0, 3]),
        [
            "A BMP file must have 8, 24 or 32 bits per pixel and no compression. "
            "Received: bits and compression =",
            bits,
            compression,
        ],
    )
    with tf.control_dependencies([check]):
        encoded = tf.identity(encoded)

    def look_up():
        length = palette_end - palette_start
        palette = tf.io.decode_raw(
            tf.strings.substr(encoded, palette_start, length), tf.uint8
        )
        colors = tf.reshape(palette, (-1, 4))[:, 2::-1]  # from blue, green, red, 0
        return tf.gather(colors, tf.cast(tf.io.decode_bmp(encoded)[..., 0], tf.int32))

    return tf.cond(
        tf.equal(bits, 8), look_up, lambda: tf.io.decode_bmp(encoded)[..., :3]
    )


def _integers(
    encoded: tf.Tensor, start: int, count: int, size: int, little_endian: bool = True
) -> tf.Tensor:
    """Reads `count` unsigned integers of `size` bytes each, as int64."""
    data = tf.io.decode_raw(tf.strings.substr(encoded, start, count * size), tf.uint8)
    # The length is wrong, and the reshape fails, where the file is too short.
    data = tf.reshape(tf.cast(data, tf.int64), (count, size))
    places = range(size) if little_endian else reversed(range(size))
    return tf.reduce_sum(data * [256**place for place in places], axis=1)


def _to_int32(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.minimum(values, 2**31 - 1), tf.int32)
