"""A small labelled set that is drawn on the spot and on which resolution matters.

A class is a shape and a fine texture. Large objects show both at a low resolution, small ones among clutter only at
a high one, so that a network of several resolutions has something to choose between.
"""

import numpy as np
import tensorflow as tf

from keras_resadapt.data.source import ImageSource

SHAPES = ("disc", "triangle")
TEXTURES = ("upright_striped", "level_striped", "checked", "plain")
CLASS_NAMES = tuple(f"{texture}_{shape}" for shape in SHAPES for texture in TEXTURES)
SPLIT_SIZES = {"train": 4000, "validation": 800}

# Half the object's extent as a share of the picture's side, for difficulty 0 and 1.
LARGEST, SMALLEST = 0.40, 0.11
# Texture periods across the object's radius. All textures have the same mean, so blur removes the difference.
PERIODS = 1.2
MAX_CLUTTER = 12
# Pictures are drawn, and balanced over the classes, in groups: a group depends only on seed, split and its number.
GROUP = 256


def demo_set(
    split: str, num_examples: int | None = None, size: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the pictures of one split.

    The same arguments give the same pictures, and the first pictures do not depend on how many are asked for.
    `"train"` and `"validation"` are drawn from separate random streams.

    Args:
        split: `"train"` or `"validation"`.
        num_examples: how many pictures, at least 1; None for 4000 and 800.
        size: side of the pictures in pixels, at least 16.
        seed: of the random streams, a non-negative int.

    Returns:
        images: uint8 (num_examples, size, size, 3).
        labels: int64 (num_examples,), in [0, 8), indices into `demo.CLASS_NAMES`.
        difficulty: float32 (num_examples,) in [0, 1]: 0 for the largest object without clutter, 1 for the smallest
            with the most clutter and noise.

    Raises:
        ValueError: an argument outside its range.
    """
    if split not in SPLIT_SIZES:
        raise ValueError(
            f"split of the demo set must be one of {tuple(SPLIT_SIZES)}; got {split!r}."
        )
    num_examples = SPLIT_SIZES[split] if num_examples is None else num_examples
    if num_examples < 1:
        raise ValueError(
            f"num_examples must be a positive integer or None; got {num_examples!r}."
        )
    if size < 16:
        raise ValueError(f"size must be at least 16 (pixels); got {size!r}.")
    if seed < 0:
        raise ValueError(f"seed must be a non-negative integer; got {seed!r}.")
    stream = tuple(SPLIT_SIZES).index(split)
    groups = [
        _draw_group(np.random.default_rng((seed, stream, group)), size)
        for group in range(-(-num_examples // GROUP))
    ]
    images, labels, difficulty = (
        np.concatenate(parts)[:num_examples] for parts in zip(*groups)
    )
    return images, labels, difficulty


def demo_source(
    split: str, num_examples: int | None = None, size: int = 64, seed: int = 0
) -> ImageSource:
    """`demo_set` as a source for `training_batches` and `evaluation_batches`; same arguments and errors.

    Objects must stay in view: train with `crop="pad"`, or with a lowest area of half the picture.
    """
    images, labels, _ = demo_set(split, num_examples, size, seed)
    pictures = tf.constant(images)
    names = [f"demo/{split}/{number:05d}" for number in range(len(labels))]
    return ImageSource(
        name=f"demo/{split}",
        records=tf.data.Dataset.from_tensor_slices(
            (np.arange(len(labels)), labels, names)
        ),
        read=lambda number: tf.gather(pictures, number),
        class_names=CLASS_NAMES,
        num_examples=len(labels),
        encoded=False,
        image_shape=(size, size),
        shuffle_buffer=len(labels),
    )


def _draw_group(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels = rng.permutation(np.arange(GROUP) % len(CLASS_NAMES))
    difficulty = rng.random(GROUP, np.float32)
    radius = size * LARGEST * (SMALLEST / LARGEST) ** difficulty

    def column(values):
        return values.astype(np.float32)[:, None, None]

    # Background: a plain colour that gets lighter or darker across the picture.
    axis = np.arange(size, dtype=np.float32)
    rows, columns = axis[None, :, None], axis[None, None, :]
    background = (
        rng.uniform(50, 205, (GROUP, 1, 1, 1)) + rng.uniform(-30, 30, (GROUP, 1, 1, 3))
    ).astype(np.float32)
    slope = rng.uniform(-40, 40, (2, GROUP)) / size
    shade = column(slope[0]) * (rows - size / 2) + column(slope[1]) * (
        columns - size / 2
    )
    images = background + shade[..., None]

    _draw_clutter(rng, images, count=np.round(MAX_CLUTTER * difficulty))

    # The object in its own coordinates: rotated, radius 1, y downwards.
    margin = np.minimum(radius + 1, size / 2)
    centre = margin + rng.random((2, GROUP)) * (size - 1 - 2 * margin)
    angle = rng.uniform(-0.35, 0.35, GROUP)
    cos, sin = column(np.cos(angle) / radius), column(np.sin(angle) / radius)
    down, right = rows - column(centre[0]), columns - column(centre[1])
    x, y = right * cos + down * sin, down * cos - right * sin
    # How far inside the outline, in radii; clipping it in pixels gives a soft edge.
    inside = _inside(x, y, labels // len(TEXTURES))
    alpha = np.clip(inside * column(radius) + 0.5, 0, 1)[..., None]

    phase = rng.uniform(0, 2 * np.pi, (2, GROUP))
    wave_x = np.sin(2 * np.pi * PERIODS * x + column(phase[0]))
    wave_y = np.sin(2 * np.pi * PERIODS * y + column(phase[1]))
    # In the order of TEXTURES.
    waves = (wave_x, wave_y, wave_x * wave_y, np.zeros_like(wave_x))
    wave = np.choose((labels % len(TEXTURES))[:, None, None], waves)
    texture = np.clip(wave * 4, -1, 1)[..., None]
    # The two colours of the texture lie on both sides of a colour that differs from the background.
    away = np.where(background.mean(-1, keepdims=True) < 128, 1, -1) * rng.uniform(
        65, 85, (GROUP, 1, 1, 3)
    )
    contrast = rng.uniform(40, 55, (GROUP, 1, 1, 1)) * rng.choice(
        [-1, 1], (GROUP, 1, 1, 1)
    )
    colour = (background + away).astype(np.float32) + texture * contrast.astype(
        np.float32
    )
    images += alpha * (colour - images)

    noise = rng.standard_normal(images.shape, np.float32)
    images += noise * (2 + 6 * difficulty[:, None, None, None])
    return (
        np.clip(np.round(images), 0, 255).astype(np.uint8),
        labels.astype(np.int64),
        difficulty,
    )


def _inside(x: np.ndarray, y: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Distance to the outline of each picture's shape, in radii, positive inside."""
    result = np.empty(np.broadcast_shapes(x.shape, y.shape), np.float32)
    for index, name in enumerate(SHAPES):
        chosen = shape == index
        u, v = x[chosen], y[chosen]
        if name == "disc":
            result[chosen] = 0.9 - np.hypot(u, v)
        elif name == "square":
            result[chosen] = 0.8 - np.maximum(np.abs(u), np.abs(v))
        elif name == "triangle":
            slanted = np.abs(u) * np.cos(np.pi / 6) - v * np.sin(np.pi / 6)
            result[chosen] = 0.55 - np.maximum(slanted, v)
        else:
            arm = np.minimum(np.abs(u), np.abs(v))
            reach = np.maximum(np.abs(u), np.abs(v))
            result[chosen] = np.minimum(0.33 - arm, 1.0 - reach)
    return result


def _draw_clutter(
    rng: np.random.Generator, images: np.ndarray, count: np.ndarray
) -> None:
    """Draws `count` small plain strokes into each picture, in place."""
    number, size = images.shape[:2]
    half = max(2, size // 14)
    offsets = np.arange(-half, half + 1)
    for stroke in range(MAX_CLUTTER):
        centre = rng.integers(half, size - half, (2, number))
        angle = rng.uniform(0, np.pi, number)[:, None, None]
        length = rng.uniform(0.4, 1.0, number)[:, None, None] * half
        colour = rng.uniform(20, 235, (number, 1, 1, 3)).astype(np.float32)
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
        rows = (centre[0][:, None] + offsets)[drawn, :, None]
        columns = (centre[1][:, None] + offsets)[drawn, None, :]
        patch = images[drawn[:, None, None], rows, columns]
        images[drawn[:, None, None], rows, columns] = patch + alpha * (
            colour[drawn] - patch
        )
