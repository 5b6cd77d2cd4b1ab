"""A small labeled set that is drawn in memory and on which resolution matters.

A class is a shape and a fine texture. Large objects show both at a low resolution.
Small objects among clutter show them only at a high resolution, so that a network of
several resolutions has something to choose between.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_resadapt.data.detection_source import DetectionSource, boxes_of_masks
from keras_resadapt.data.segmentation_source import SegmentationSource
from keras_resadapt.data.source import ImageSource

SHAPES = ("disc", "triangle")
TEXTURES = ("upright_striped", "level_striped", "checked", "plain")
CLASS_NAMES = tuple(f"{texture}_{shape}" for shape in SHAPES for texture in TEXTURES)
SEGMENTATION_CLASS_NAMES = ("background", *SHAPES)
SPLIT_SIZES = {"train": 4000, "validation": 800}

# Half the object's extent as a fraction of the image's side, for difficulty 0 and 1.
LARGEST, SMALLEST = 0.40, 0.11
# Texture periods across the object's radius. All textures have the same mean, so that
# blur removes the difference.
PERIODS = 1.2
MAX_CLUTTER = 12
# Most objects in an image for detection, and half the extent of the largest one.
MAX_OBJECTS, LARGEST_OF_MANY = 3, 0.24
# Images are drawn, and balanced over the classes, in groups. A group depends only on
# the seed, the split and its number.
GROUP = 256


def demo_set(
    split: str, num_examples: int | None = None, size: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the images of one split.

    The same arguments give the same images, and the first images do not depend on
    `num_examples`. `"train"` and `"validation"` use separate random streams.

    Args:
        split: `"train"` or `"validation"`.
        num_examples: Number of images, a positive integer. None for 4000 and 800.
        size: Side of the images in pixels, at least 16.
        seed: Seed of the random streams, a non-negative integer.

    Returns:
        images: uint8 (num_examples, size, size, 3).
        labels: int64 (num_examples,), in [0, 8), indices into `demo.CLASS_NAMES`.
        difficulty: float32 (num_examples,) in [0, 1]: 0 for the largest object without
            clutter, 1 for the smallest object with the most clutter and noise.

    Raises:
        ValueError: If an argument is outside its range.
    """
    images, labels, difficulty, _ = _draw(split, num_examples, size, seed)
    return images, labels, difficulty


def demo_source(
    split: str, num_examples: int | None = None, size: int = 64, seed: int = 0
) -> ImageSource:
    """Returns `demo_set` as a source for training and evaluation batches.

    Objects must stay in view: train with `crop="pad"`, or with a smallest area of half
    the image.

    Args:
        split, num_examples, size, seed: As for `demo_set`.

    Raises:
        ValueError: If an argument is outside its range.
    """
    images, labels, _ = demo_set(split, num_examples, size, seed)
    images = tf.constant(images)
    names = [f"demo/{split}/{number:05d}" for number in range(len(labels))]
    return ImageSource(
        name=f"demo/{split}",
        records=tf.data.Dataset.from_tensor_slices(
            (np.arange(len(labels)), labels, names)
        ),
        read=lambda number: tf.gather(images, number),
        class_names=CLASS_NAMES,
        num_examples=len(labels),
        encoded=False,
        image_shape=(size, size),
        shuffle_buffer=len(labels),
    )


def demo_segmentation_source(
    split: str, num_examples: int | None = None, size: int = 64, seed: int = 0
) -> SegmentationSource:
    """Returns the images of `demo_set` with a mask of the object in each.

    The classes are the background and the shapes, `demo.SEGMENTATION_CLASS_NAMES`.

    Args:
        split, num_examples, size, seed: As for `demo_set`.

    Raises:
        ValueError: If an argument is outside its range.
    """
    images, _, _, masks = _draw(split, num_examples, size, seed)
    images, masks = tf.constant(images), tf.constant(masks)
    numbers = np.arange(len(images))
    names = [f"demo/{split}/{number:05d}" for number in numbers]
    return SegmentationSource(
        name=f"demo/{split}",
        records=tf.data.Dataset.from_tensor_slices((numbers, numbers, names)),
        read=lambda number: tf.gather(images, number),
        read_mask=lambda number: tf.gather(masks, number),
        class_names=SEGMENTATION_CLASS_NAMES,
        num_examples=len(images),
        encoded=False,
        image_shape=(size, size),
        shuffle_buffer=len(images),
    )


def demo_detection_source(
    split: str, num_examples: int | None = None, size: int = 64, seed: int = 0
) -> DetectionSource:
    """Returns images with up to three objects, with boxes and masks.

    The classes are the shapes, `demo.SHAPES`. Objects can cover each other, and a
    quarter of the images have none.

    Args:
        split, num_examples, size, seed: As for `demo_set`.

    Raises:
        ValueError: If an argument is outside its range.
    """
    images, shapes, maps = _draw(split, num_examples, size, seed, _draw_many)
    numbers = np.arange(len(images))
    # One row per object that is at least partly visible
    visible = (maps[:, None] == np.arange(1, 1 + MAX_OBJECTS)[:, None, None]).any(
        axis=(2, 3)
    )
    owners, places = np.nonzero(visible)
    object_masks = maps[owners] == 1 + places[:, None, None]
    objects = {
        "boxes": boxes_of_masks(object_masks),
        "classes": shapes[owners, places].astype(np.int32),
        "crowd": np.zeros(len(owners), bool),
        "area": object_masks.sum(axis=(1, 2)).astype(np.float32),
        "masks": np.stack([owners, 1 + places], axis=1),
    }
    objects = {key: tf.constant(value) for key, value in objects.items()}
    splits = tf.constant(np.cumsum([0, *visible.sum(axis=1)]))
    images, maps = tf.constant(images), tf.constant(maps)

    def read_objects(number, image_size):
        first, last = tf.unstack(tf.gather(splits, [number, number + 1]))
        found = {key: value[first:last] for key, value in objects.items()}
        return {"image_id": number, **found}

    def read_masks(rows):
        found = tf.gather(maps, rows[:, 0]) == tf.cast(
            rows[:, 1, tf.newaxis, tf.newaxis], maps.dtype
        )
        return tf.cast(found, tf.uint8)

    names = [f"demo/{split}/{number:05d}" for number in numbers]
    return DetectionSource(
        name=f"demo/{split}",
        records=tf.data.Dataset.from_tensor_slices((numbers, numbers, names)),
        read=lambda number: tf.gather(images, number),
        read_objects=read_objects,
        read_masks=read_masks,
        class_names=SHAPES,
        num_examples=len(numbers),
        encoded=False,
        image_shape=(size, size),
        shuffle_buffer=len(numbers),
    )


def _draw(
    split: str,
    num_examples: int | None,
    size: int,
    seed: int,
    draw_group: Callable | None = None,
) -> tuple[np.ndarray, ...]:
    """Draws images, labels, difficulty and masks of one split.

    Args:
        split, num_examples, size, seed: As for `demo_set`.
        draw_group: Function that draws one group. None for `_draw_group`.
    """
    draw_group = draw_group or _draw_group
    if split not in SPLIT_SIZES:
        raise ValueError(
            f"`split` of the demo set must be one of {tuple(SPLIT_SIZES)}. "
            f"Received: split={split!r}"
        )
    num_examples = SPLIT_SIZES[split] if num_examples is None else num_examples
    if num_examples < 1:
        raise ValueError(
            "`num_examples` must be a positive integer or None. "
            f"Received: num_examples={num_examples!r}"
        )
    if size < 16:
        raise ValueError(f"`size` must be at least 16 (pixels). Received: size={size}")
    if seed < 0:
        raise ValueError(
            f"`seed` must be a non-negative integer. Received: seed={seed!r}"
        )
    stream = tuple(SPLIT_SIZES).index(split)
    groups = [
        draw_group(np.random.default_rng((seed, stream, group)), size)
        for group in range(-(-num_examples // GROUP))
    ]
    return tuple(np.concatenate(parts)[:num_examples] for parts in zip(*groups))


def _draw_group(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws the images, labels, difficulty and masks of one group."""
    labels = rng.permutation(np.arange(GROUP) % len(CLASS_NAMES))
    difficulty = rng.random(GROUP, np.float32)
    radius = size * LARGEST * (SMALLEST / LARGEST) ** difficulty
    background, images = _draw_background(rng, size)
    _draw_clutter(rng, images, count=np.round(MAX_CLUTTER * difficulty))
    x, y = _object_coordinates(rng, radius, size)
    # Distance to the outline in radii. Clipping it in pixels gives a soft edge.
    inside = _inside(x, y, labels // len(TEXTURES))
    alpha = np.clip(inside * _column(radius) + 0.5, 0, 1)[..., None]
    color = _draw_texture(rng, x, y, labels, background)
    images += alpha * (color - images)
    noise = rng.standard_normal(images.shape, np.float32)
    images += noise * (2 + 6 * difficulty[:, None, None, None])
    masks = np.where(inside > 0, 1 + _column(labels // len(TEXTURES)), 0)
    return (
        np.clip(np.round(images), 0, 255).astype(np.uint8),
        labels.astype(np.int64),
        difficulty,
        masks.astype(np.uint8),
    )


def _draw_many(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws images of several objects, their shapes, and maps of object numbers.

    Returns:
        uint8 (GROUP, size, size, 3), int64 (GROUP, MAX_OBJECTS), and uint8
        (GROUP, size, size): 0 outside the objects, 1 for the first object.
    """
    background, images = _draw_background(rng, size)
    _draw_clutter(rng, images, count=rng.integers(0, MAX_CLUTTER, GROUP))
    labels = rng.integers(len(CLASS_NAMES), size=(GROUP, MAX_OBJECTS))
    shapes = labels // len(TEXTURES)
    count = rng.permutation(np.arange(GROUP) % (MAX_OBJECTS + 1))
    maps = np.zeros(images.shape[:3], np.uint8)
    for place in range(MAX_OBJECTS):
        difficulty = rng.random(GROUP, np.float32)
        radius = size * LARGEST_OF_MANY * (SMALLEST / LARGEST_OF_MANY) ** difficulty
        x, y = _object_coordinates(rng, radius, size)
        inside = _inside(x, y, shapes[:, place])
        color = _draw_texture(rng, x, y, labels[:, place], background)
        drawn = _column(count > place)
        alpha = np.clip(inside * _column(radius) + 0.5, 0, 1) * drawn
        images += alpha[..., None] * (color - images)
        maps[(inside > 0) & (drawn > 0)] = 1 + place
    images += rng.standard_normal(images.shape, np.float32) * 3
    return np.clip(np.round(images), 0, 255).astype(np.uint8), shapes, maps


def _draw_background(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns plain colors, and images of them with a gradient of brightness."""
    rows, columns = _pixel_grid(size)
    background = (
        rng.uniform(50, 205, (GROUP, 1, 1, 1)) + rng.uniform(-30, 30, (GROUP, 1, 1, 3))
    ).astype(np.float32)
    slope = rng.uniform(-40, 40, (2, GROUP)) / size
    down = _column(slope[0]) * (rows - size / 2)
    right = _column(slope[1]) * (columns - size / 2)
    return background, background + (down + right)[..., None]


def _object_coordinates(
    rng: np.random.Generator, radius: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y of all pixels relative to the rotated object of radius 1."""
    rows, columns = _pixel_grid(size)
    margin = np.minimum(radius + 1, size / 2)
    center = margin + rng.random((2, GROUP)) * (size - 1 - 2 * margin)
    angle = rng.uniform(-0.35, 0.35, GROUP)
    cos, sin = _column(np.cos(angle) / radius), _column(np.sin(angle) / radius)
    down, right = rows - _column(center[0]), columns - _column(center[1])
    return right * cos + down * sin, down * cos - right * sin


def _draw_texture(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    labels: np.ndarray,
    background: np.ndarray,
) -> np.ndarray:
    """Returns the colors of the objects, as if they covered the whole images."""
    phase = rng.uniform(0, 2 * np.pi, (2, GROUP))
    wave_x = np.sin(2 * np.pi * PERIODS * x + _column(phase[0]))
    wave_y = np.sin(2 * np.pi * PERIODS * y + _column(phase[1]))
    # In the order of TEXTURES.
    waves = (wave_x, wave_y, wave_x * wave_y, np.zeros_like(wave_x))
    wave = np.choose((labels % len(TEXTURES))[:, None, None], waves)
    texture = np.clip(wave * 4, -1, 1)[..., None]
    # The two colors of the texture lie on both sides of a color that differs from the
    # background.
    sign = np.where(background.mean(-1, keepdims=True) < 128, 1, -1)
    away = sign * rng.uniform(65, 85, (GROUP, 1, 1, 3))
    contrast = rng.uniform(40, 55, (GROUP, 1, 1, 1)) * rng.choice(
        [-1, 1], (GROUP, 1, 1, 1)
    )
    middle = (background + away).astype(np.float32)
    return middle + texture * contrast.astype(np.float32)


def _inside(x: np.ndarray, y: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Returns the distance to the outline of each shape, in radii, positive inside."""
    disc = 0.9 - np.hypot(x, y)
    slanted = np.abs(x) * np.cos(np.pi / 6) - y * np.sin(np.pi / 6)
    triangle = 0.55 - np.maximum(slanted, y)
    # In the order of SHAPES.
    return np.choose(shape[:, None, None], (disc, triangle)).astype(np.float32)


def _draw_clutter(
    rng: np.random.Generator, images: np.ndarray, count: np.ndarray
) -> None:
    """Draws `count` small plain strokes into each image, in place."""
    number, size = images.shape[:2]
    half = max(2, size // 14)
    offsets = np.arange(-half, half + 1)
    for stroke in range(MAX_CLUTTER):
        center = rng.integers(half, size - half, (2, number))
        angle = rng.uniform(0, np.pi, number)[:, None, None]
        length = rng.uniform(0.4, 1.0, number)[:, None, None] * half
        color = rng.uniform(20, 235, (number, 1, 1, 3)).astype(np.float32)
        drawn = np.flatnonzero(count > stroke)
        along = (
            np.cos(angle) * offsets[None, None, :]
            + np.sin(angle) * offsets[None, :, None]
        )
        across = (
            np.cos(angle) * offsets[None, :, None]
            - np.sin(angle) * offsets[None, None, :]
        )
        distance = np.maximum(np.abs(along) - length, np.abs(across) - size / 50)
        alpha = np.clip(0.5 - distance, 0, 1)[drawn, ..., None].astype(np.float32)
        rows = (center[0][:, None] + offsets)[drawn, :, None]
        columns = (center[1][:, None] + offsets)[drawn, None, :]
        patch = images[drawn[:, None, None], rows, columns]
        images[drawn[:, None, None], rows, columns] = patch + alpha * (
            color[drawn] - patch
        )


def _column(values: np.ndarray) -> np.ndarray:
    """One value per image, broadcast over its pixels."""
    return values.astype(np.float32)[:, None, None]


def _pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column numbers, broadcast over images."""
    axis = np.arange(size, dtype=np.float32)
    return axis[None, :, None], axis[None, None, :]
