"""Gallery of images with the objects detected in them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_resadapt.analysis.text import plain

PALETTE = "tab20"


def plot_detections(
    images: Sequence[np.ndarray],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    min_score: float = 0.5,
    title: str = "",
) -> None:
    """Plots boxes, masks, class names and scores, one row per image.

    There is one column per operating point, so that two operating points are side by
    side as in figure 10 of MutualNet. The ground truth can be one of the columns. Every
    class has a fixed color.

    Args:
        images: Images (height, width, 3) with values in [0, 255].
        results: For each operating point by name, one dict per image:

            - `boxes`: (objects, 4), x1, y1, x2, y2 in pixels of the image.
            - `classes`: integers (objects,).
            - `scores`: optional, (objects,).
            - `masks`: optional, (objects, height, width), nonzero inside the objects.
            - `count`: optional, number of objects. The rest is padding.
        path: The image file to write.
        class_names: One name per class. None for the numbers of the classes.
        min_score: Objects with a lower score are not drawn.
        title: Title of the plot.

    Raises:
        ValueError: If there are no images or no results, the numbers of images and
            results differ, or a class has no name.
    """
    from matplotlib.figure import Figure

    counts = {name: len(column) for name, column in results.items()}
    if not len(images) or set(counts.values()) != {len(images)}:
        raise ValueError(
            "`images` and each of `results` must have the same length, at least 1. "
            f"Received: {len(images)} images and {counts}"
        )
    ratio = np.mean([np.shape(image)[0] / np.shape(image)[1] for image in images])
    figure = Figure(
        figsize=(4 * len(results), 4 * ratio * len(images) + 0.6),
        dpi=120,
        layout="constrained",
    )
    grid = figure.subplots(len(images), len(results), squeeze=False)
    for row, image, *found in zip(grid, images, *results.values()):
        image = np.clip(np.round(image), 0, 255).astype(np.uint8)
        for axes, objects in zip(row, found):
            _draw_objects(axes, image, objects, class_names, min_score)
    for axes, name in zip(grid[0], results):
        axes.set_title(plain(name), fontsize="medium")
    figure.suptitle(plain(title))
    figure.savefig(path)


def _draw_objects(axes, image, objects, class_names, min_score):
    """Draws one image and its objects, the most confident ones on top."""
    import matplotlib
    from matplotlib.patches import Rectangle

    count = len(objects["classes"])
    if objects.get("count") is not None:
        count = int(objects["count"])
    classes = np.asarray(objects["classes"])[:count].astype(int)
    boxes = np.asarray(objects["boxes"])[:count]
    scores = objects.get("scores")
    scores = np.ones(count) if scores is None else np.asarray(scores)[:count]
    known = np.inf if class_names is None else len(class_names)
    if count and not 0 <= classes.min() <= classes.max() < known:
        raise ValueError(
            "Classes must be at least 0 and have a name in `class_names`. Received: "
            f"classes from {classes.min()} to {classes.max()}"
        )
    colors = matplotlib.colormaps[PALETTE].colors
    order = [n for n in np.argsort(scores, kind="stable") if scores[n] >= min_score]
    shown = image / 255
    for n in order:
        if objects.get("masks") is not None:
            inside = np.asarray(objects["masks"][n]) != 0
            color = np.array(colors[classes[n] % len(colors)])
            weight = np.where(_outline(inside), 1.0, 0.45)[inside, None]
            shown[inside] += weight * (color - shown[inside])
    axes.imshow(shown)
    axes.set_xticks([])
    axes.set_yticks([])
    for n in order:
        x1, y1, x2, y2 = boxes[n]
        color = colors[classes[n] % len(colors)]
        # Pixel centers have integer coordinates in a plot.
        corner = (x1 - 0.5, y1 - 0.5)
        axes.add_patch(
            Rectangle(corner, x2 - x1, y2 - y1, fill=False, color=color, linewidth=1)
        )
        if len(order) > 30 or (known == 1 and objects.get("scores") is None):
            continue  # names would cover the image, or all be the same
        name = str(classes[n]) if class_names is None else class_names[classes[n]]
        score = "" if objects.get("scores") is None else f" {scores[n]:.2f}"
        axes.text(
            *corner,
            plain(name) + score,
            fontsize=5,
            verticalalignment="bottom",
            clip_on=True,
            bbox={"facecolor": color, "alpha": 0.7, "pad": 0.5, "linewidth": 0},
        )


def _outline(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels of a mask that have a neighbor outside of it."""
    padded = np.pad(mask, 1)
    inner = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask & ~inner
