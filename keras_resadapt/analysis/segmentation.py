"""Gallery of images, their masks and the predictions for them."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from keras_resadapt.analysis.text import plain

VOID_COLOR = (255, 255, 255)


def class_colors(num_classes: int) -> np.ndarray:
    """Returns one fixed color per class.

    These are the colors of the PASCAL VOC masks: black for class 0, and then each bit
    of the class changes one of the color channels.

    Args:
        num_classes: Number of classes, from 1 to 255.

    Returns:
        uint8 array of shape (num_classes, 3).

    Raises:
        ValueError: If `num_classes` is outside its range.
    """
    if not 1 <= num_classes <= 255:
        raise ValueError(
            "`num_classes` must be from 1 to 255. "
            f"Received: num_classes={num_classes!r}"
        )
    classes = np.arange(num_classes)[:, None]
    colors = np.zeros((num_classes, 3), int)
    for place in range(8):
        bits = classes >> (3 * place + np.arange(3)) & 1
        colors |= bits << (7 - place)
    return colors.astype(np.uint8)


def plot_segmentation(
    images: np.ndarray | Sequence[np.ndarray],
    masks: np.ndarray | Sequence[np.ndarray],
    predictions: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    path: str | os.PathLike,
    class_names: Sequence[str] | None = None,
    ignore_class: int | None = 255,
    title: str = "",
) -> None:
    """Plots images, ground truth and predictions side by side, one row per image.

    RS-Net, figure 8. Every class has a fixed color (`class_colors`), and the legend has
    the classes that occur. Pixels without a class are white in the ground truth. Images
    and masks can have different sizes.

    Args:
        images: Images with values in [0, 255], (images, height, width, 3), or a
            sequence of images of different sizes.
        masks: Ground truth, integers (images, height, width), or a sequence of masks.
        predictions: For each operating point by name, its classes in the same form as
            `masks`.
        path: The image file to write.
        class_names: One name per class. None for the numbers of the classes.
        ignore_class: Label of the pixels that belong to no class, or None.
        title: Title of the plot.

    Raises:
        ValueError: If there are no images, the numbers of images, masks and predictions
            differ, or labels are not integers from 0 to 254 with a name.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = {"ground truth": masks, **predictions}
    present = _check(images, columns, class_names, ignore_class)
    colors = class_colors(max(present, default=0) + 1)
    height, width = np.shape(images[0])[:2]
    row_height = 2.2 * height / width
    figure = Figure(
        figsize=(2.2 * (1 + len(columns)) + 2, row_height * len(images) + 0.6),
        dpi=120,
        layout="constrained",
    )
    grid = figure.subplots(len(images), 1 + len(columns), squeeze=False)
    for row, image, *labels in zip(grid, images, *columns.values()):
        row[0].imshow(np.clip(np.round(image), 0, 255).astype(np.uint8))
        for axes, mask in zip(row[1:], labels):
            axes.imshow(_colored(np.asarray(mask), colors, ignore_class))
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[0], ("image", *columns)):
        axes.set_title(plain(name), fontsize="medium")
    names = range(len(colors)) if class_names is None else class_names
    handles = [
        Patch(facecolor=colors[label] / 255, edgecolor="0.5", label=plain(names[label]))
        for label in present
    ]
    if any(np.any(np.asarray(mask) == ignore_class) for mask in masks):
        void = np.array(VOID_COLOR) / 255
        handles.append(Patch(facecolor=void, edgecolor="0.5", label="no class"))
    rows_per_column = max(1, int(figure.get_figheight() / 0.2))
    figure.legend(
        handles=handles,
        loc="outside right upper",
        fontsize="small",
        ncols=-(-len(handles) // rows_per_column),
    )
    figure.suptitle(plain(title))
    figure.savefig(path)


def _check(images, columns, class_names, ignore_class) -> list[int]:
    """Returns the classes that occur."""
    counts = {name: len(column) for name, column in columns.items()}
    if not len(images) or set(counts.values()) != {len(images)}:
        raise ValueError(
            "`images`, `masks` and each of `predictions` must have the same length, at "
            f"least 1. Received: {len(images)} images and {counts}"
        )
    present = set()
    for name, column in columns.items():
        for mask in map(np.asarray, column):
            if mask.ndim != 2 or mask.dtype.kind not in "iu":
                raise ValueError(
                    "Masks must be integers of shape (height, width). Received: "
                    f"{mask.dtype} of shape {mask.shape} in {name!r}"
                )
            present.update(np.unique(mask).tolist())
    present -= {ignore_class}
    highest = 254 if class_names is None else len(class_names) - 1
    if present and not 0 <= min(present) <= max(present) <= highest:
        raise ValueError(
            f"Labels must be from 0 to {highest}, or ignore_class={ignore_class}. "
            f"Received: labels from {min(present)} to {max(present)}"
        )
    return sorted(present)


def _colored(mask, colors, ignore_class) -> np.ndarray:
    void = mask == ignore_class  # all False for None
    result = colors[np.where(void, 0, mask)]
    result[void] = VOID_COLOR
    return result
