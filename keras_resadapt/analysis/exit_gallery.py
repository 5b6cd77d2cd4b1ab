"""Pictures that leave a cascade early beside those that leave late."""

import dataclasses
import heapq
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from keras import ops

from keras_resadapt.batches import images_at, labelled_batches
from keras_resadapt.models.cascade import Cascade

if TYPE_CHECKING:  # it needs TensorFlow, which the other pictures do not
    from keras_resadapt.inference import Thresholds


@dataclasses.dataclass(frozen=True)
class ExitGallery:
    """Where the images of a data set left, and which of them are shown.

    Attributes:
        exits: The exit of each image, from 0, int32 of shape (images,).
        correct: Whether it was right there, bool of shape (images,).
        confidence: Its largest probability there, float32 of shape (images,).
        shown: By class (None for all together), for each exit the indices of
            the pictures shown, from left to right.
    """

    exits: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray
    shown: dict[int | None, tuple[tuple[int, ...], ...]]


def plot_exit_gallery(
    model: Cascade,
    thresholds: "Thresholds | Sequence[float]",
    data: Iterable,
    path: str | os.PathLike,
    classes: Sequence[int] | None = None,
    columns: int = 3,
    class_names: Sequence[str] | None = None,
    title: str = "",
    verbose: bool = True,
) -> ExitGallery:
    """Draws easy pictures above hard ones: a row an exit.

    RANet, figure 7. A row has the pictures that left at its exit with the
    right answer, the most confident on the left. Beside it stand the share of
    all images that left there, and how many of these were right.

    Goes once through the data, and keeps no more pictures than it shows.

    Args:
        model: A cascade.
        thresholds: As for `inference.AdaptivePredictor`.
        data: Batches of (images, labels), all of one size.
        path: The picture to write.
        classes: The classes to show, each in a block of its own; by default
            one block for all classes together.
        columns: Pictures an exit and class.
        class_names: A name a class, by default its number.
        title: Above the picture.
        verbose: Whether to show the progress.

    Returns:
        What `ExitGallery` says.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        TypeError: The model is no cascade.
        ValueError: Bad thresholds or data, or a class of which there is no
            picture.
    """
    from keras_resadapt.inference.running.adaptive_predictor import (
        AdaptivePredictor,
    )

    if columns < 1:
        raise ValueError(f"`columns` must be positive. Received: {columns}")
    blocks = [None] if classes is None else [int(c) for c in classes]
    if not blocks:
        raise ValueError("`classes` must name at least one class, or be None.")
    predictor, seen = None, 0
    exits, correct, confidence, present = [], [], [], set()
    # By class and exit, a heap of (confidence, -index, picture): the first is
    # the next to go.
    best = {}
    for images, labels in labelled_batches(data, verbose):
        if isinstance(images, (tuple, list)):
            images = images_at(images, model.resolution)
        images = ops.convert_to_numpy(images)
        if predictor is None:
            predictor = AdaptivePredictor(model, thresholds, resolution=images.shape[1])
        answer = predictor.predict(images)
        right = answer.classes == labels
        sure = answer.probabilities.max(axis=-1)
        present.update(labels.tolist())
        for i in np.flatnonzero(right):
            block = None if classes is None else int(labels[i])
            if block in blocks:
                heap = best.setdefault((block, int(answer.exits[i])), [])
                item = float(sure[i]), -(seen + int(i)), images[i]
                if len(heap) < columns:
                    heapq.heappush(heap, item)
                elif item[:2] > heap[0][:2]:
                    heapq.heapreplace(heap, item)
        seen += len(labels)
        exits.append(answer.exits)
        correct.append(right)
        confidence.append(sure)
    missing = [c for c in blocks if c is not None and c not in present]
    if missing:
        raise ValueError(
            f"The data has no picture of the classes {missing}. "
            f"It has: {sorted(present)}"
        )
    rows = {
        block: [
            sorted(best.get((block, exit), []), key=lambda item: item[:2])[::-1]
            for exit in range(model.num_exits)
        ]
        for block in blocks
    }
    gallery = ExitGallery(
        *map(np.concatenate, (exits, correct, confidence)),
        {
            block: tuple(tuple(-item[1] for item in row) for row in of_block)
            for block, of_block in rows.items()
        },
    )
    names = {
        block: "all classes"
        if block is None
        else str(block if class_names is None else class_names[block])
        for block in blocks
    }
    _draw(model, gallery, rows, names, columns, images.shape[1:], title, path)
    return gallery


def _draw(model, gallery, rows, names, columns, shape, title, path):
    from matplotlib.figure import Figure

    height, width = shape[:2]
    cell = height + max(2, height // 12), width + max(2, width // 12)
    labels = [
        _describe(exit, row.madds, gallery)
        for exit, row in enumerate(model.profile(resolution=height))
    ]
    scale = _display_scale(
        [item[2] for of_block in rows.values() for row in of_block for item in row]
    )
    figure = Figure(
        figsize=(
            2.2 + len(rows) * (columns + 0.4),
            0.8 + len(labels) * cell[0] / cell[1],
        ),
        dpi=120,
        layout="constrained",
    )
    blocks = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, (block, of_block) in zip(blocks, rows.items()):
        sheet = np.ones((len(labels) * cell[0], columns * cell[1], 3))
        for exit, row in enumerate(of_block):
            for column, (_, _, picture) in enumerate(row):
                top, left = exit * cell[0], column * cell[1]
                sheet[top : top + height, left : left + width] = scale(picture)
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(names[block], fontsize="medium")
        axes.spines[:].set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
    blocks[0].set_yticks(
        [exit * cell[0] + height / 2 for exit in range(len(labels))], labels
    )
    blocks[0].tick_params(length=0)
    figure.suptitle(title)
    figure.savefig(path)


def _describe(exit, madds, gallery):
    left = gallery.exits == exit
    text = f"exit {exit}, {madds / 1e6:.3g} M\n{100 * left.mean():.1f} % leave"
    if left.any():
        text += f"\n{100 * gallery.correct[left].mean():.1f} % right"
    return text


def _display_scale(pictures):
    """A function from pictures to [0, 1]."""
    low = min((picture.min() for picture in pictures), default=0)
    high = max((picture.max() for picture in pictures), default=255)
    if low >= 0 and high <= 255:
        # A model without preprocessing may take values in [0, 1].
        low, high = 0, 255 if high > 1 else 1
    return lambda picture: (picture.astype("float64") - low) / (high - low)
