"""Gallery of images that exit a cascade early, and of images that exit late."""

import dataclasses
import heapq
import os
from collections.abc import Iterable, Sequence

import numpy as np
from keras import ops

from keras_resadapt.analysis.text import plain
from keras_resadapt.batches import images_at, labelled_batches
from keras_resadapt.inference.running.adaptive_predictor import AdaptivePredictor
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.models.cascade import Cascade


@dataclasses.dataclass(frozen=True)
class ExitGallery:
    """The exits of the images of a data set, and the images in the gallery.

    Attributes:
        exits: The exit of each image, from 0, int32 of shape (images,).
        correct: Whether the prediction is right there, bool of shape (images,).
        confidence: The largest probability there, float32 of shape (images,).
        shown: For each class (None for all classes together) and each exit, the
            indices of the images in the gallery, from left to right.
    """

    exits: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray
    shown: dict[int | None, tuple[tuple[int, ...], ...]]


def plot_exit_gallery(
    model: Cascade,
    thresholds: Thresholds | Sequence[float],
    data: Iterable,
    path: str | os.PathLike,
    classes: Sequence[int] | None = None,
    columns: int = 3,
    class_names: Sequence[str] | None = None,
    title: str = "",
    verbose: bool = True,
) -> ExitGallery:
    """Plots easy images above hard ones, with one row per exit.

    RANet, figure 7. A row has images that exited there with the right prediction, with
    the most confident on the left. Its label has the fraction of all images that exited
    there, and the accuracy of these images.

    The data is read once, and only the images in the gallery are kept.

    Args:
        model: A cascade.
        thresholds: As for `inference.AdaptivePredictor`.
        data: Batches of (images, labels), all images of one size.
        path: The image file to write.
        classes: The classes of the gallery, each with its own block. None for one
            block for all classes together.
        columns: Images per exit and class, a positive integer.
        class_names: One name per class. None for the numbers of the classes.
        title: Title of the plot.
        verbose: Whether to show the progress.

    Returns:
        The exits of all images, and the images in the gallery.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        TypeError: If the model is not a cascade.
        ValueError: If the thresholds or the data are invalid, a class has no name, or
            the data has no image of a class.
    """
    if columns < 1:
        raise ValueError(
            f"`columns` must be a positive integer. Received: columns={columns}"
        )
    blocks = [None] if classes is None else [int(c) for c in classes]
    if not blocks:
        raise ValueError(
            "`classes` must have at least one class, or be None. "
            f"Received: classes={classes!r}"
        )
    names = {block: _block_name(block, class_names) for block in blocks}
    best = _MostConfident(blocks, columns)
    exits, correct, confidence, present, seen = [], [], [], set(), 0
    for images, labels, answer in _predictions(model, thresholds, data, verbose):
        right = answer.classes == labels
        confident = answer.probabilities.max(axis=-1)
        present.update(labels.tolist())
        for i in np.flatnonzero(right):
            best.add(int(labels[i]), answer.exits[i], confident[i], seen + i, images[i])
        seen += len(labels)
        exits.append(answer.exits)
        correct.append(right)
        confidence.append(confident)
    missing = [c for c in blocks if c is not None and c not in present]
    if missing:
        raise ValueError(
            f"`data` must have images of all `classes`. Received: no images of the "
            f"classes {missing}. The data has: {sorted(present)}"
        )
    rows = best.rows(model.num_exits)
    gallery = ExitGallery(
        np.concatenate(exits),
        np.concatenate(correct),
        np.concatenate(confidence),
        {
            block: tuple(tuple(-item[1] for item in row) for row in of_block)
            for block, of_block in rows.items()
        },
    )
    _draw(model, gallery, rows, names, columns, images.shape[1:], title, path)
    return gallery


def _predictions(model, thresholds, data, verbose):
    """Yields images, labels and adaptive predictions, batch by batch."""
    predictor = None
    for images, labels in labelled_batches(data, verbose):
        if isinstance(images, (tuple, list)):
            images = images_at(images, model.resolution)
        images = ops.convert_to_numpy(images)
        if predictor is None:
            predictor = AdaptivePredictor(model, thresholds, resolution=images.shape[1])
        yield images, labels, predictor.predict(images)


class _MostConfident:
    """The most confident images of each block and exit.

    Items are (confidence, -index, image), in heaps, so that the least confident item
    is the first to be replaced.
    """

    def __init__(self, blocks, columns):
        self.blocks = blocks
        self.columns = columns
        self.heaps = {}

    def add(self, label, exit, confidence, index, image):
        block = None if self.blocks == [None] else label
        if block not in self.blocks:
            return
        heap = self.heaps.setdefault((block, int(exit)), [])
        item = float(confidence), -int(index), image
        if len(heap) < self.columns:
            heapq.heappush(heap, item)
        elif item[:2] > heap[0][:2]:
            heapq.heapreplace(heap, item)

    def rows(self, num_exits):
        """Returns the items of each block, for each exit with the best first."""
        return {
            block: [
                sorted(self.heaps.get((block, exit), []), key=lambda item: item[:2])[
                    ::-1
                ]
                for exit in range(num_exits)
            ]
            for block in self.blocks
        }


def _block_name(block, class_names) -> str:
    if block is None:
        return "all classes"
    if class_names is None:
        return str(block)
    if not 0 <= block < len(class_names):
        raise ValueError(
            f"`class_names` must have a name for every class. Received: "
            f"{len(class_names)} names and class {block}"
        )
    return plain(class_names[block])


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
            for column, (_, _, image) in enumerate(row):
                top, left = exit * cell[0], column * cell[1]
                sheet[top : top + height, left : left + width] = scale(image)
        axes.imshow(sheet, interpolation="nearest")
        axes.set_title(names[block], fontsize="medium")
        axes.spines[:].set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
    blocks[0].set_yticks(
        [exit * cell[0] + height / 2 for exit in range(len(labels))], labels
    )
    blocks[0].tick_params(length=0)
    figure.suptitle(plain(title))
    figure.savefig(path)


def _describe(exit, madds, gallery):
    here = gallery.exits == exit
    text = f"exit {exit}, {madds / 1e6:.3g} M\n{100 * here.mean():.1f} % of images"
    if here.any():
        text += f"\n{100 * gallery.correct[here].mean():.1f} % right"
    return text


def _display_scale(images):
    """Returns a function from images to [0, 1]."""
    low = min((image.min() for image in images), default=0)
    high = max((image.max() for image in images), default=255)
    if low >= 0 and high <= 255:
        # A model without preprocessing can take values in [0, 1].
        low, high = 0, 255 if high > 1 else 1
    return lambda image: (image.astype("float64") - low) / (high - low)
