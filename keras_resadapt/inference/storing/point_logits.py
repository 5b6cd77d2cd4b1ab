"""The logits of a data set at every operating point, from one pass over it."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence

import numpy as np
from keras import ops

from keras_resadapt.batches import images_at, labelled_batches
from keras_resadapt.compiled import compile_function
from keras_resadapt.inference.storing.fingerprint import model_fingerprint
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class PointLogits:
    """What a model says about a data set at P operating points.

    Attributes:
        logits: float32 of shape (P, images, classes).
        labels: The right class, int64 of shape (images,).
        madds: The multiply-adds of an image at each point, P integers: in a
            cascade, with all exits before.
        names: The points' names.
        fingerprint: `model_fingerprint` of the model.

    Raises:
        ValueError: For arrays whose shapes do not fit, and for logits that
            are not finite.
    """

    logits: np.ndarray
    labels: np.ndarray
    madds: tuple[int, ...]
    names: tuple[str, ...]
    fingerprint: str | None = None

    def __post_init__(self):
        logits = np.asarray(self.logits, "float32")
        labels = np.asarray(self.labels)
        if (
            logits.ndim != 3
            or labels.shape != logits.shape[1:2]
            or not len(logits) == len(self.madds) == len(self.names)
        ):
            raise ValueError(
                "`logits` must have shape (points, images, classes), "
                "`labels` (images,), `madds` and `names` one entry a point. "
                f"Received: {logits.shape}, {labels.shape}, "
                f"{len(self.madds)} and {len(self.names)} entries"
            )
        if not np.isfinite(logits).all():
            raise ValueError(
                "The logits of some images are not finite: look for NaN in "
                "the pixels or the weights."
            )
        object.__setattr__(self, "logits", logits)
        object.__setattr__(self, "labels", labels.astype("int64"))
        object.__setattr__(self, "madds", tuple(int(m) for m in self.madds))
        object.__setattr__(self, "names", tuple(str(n) for n in self.names))

    @property
    def classes(self) -> np.ndarray:
        """The most probable class, int64 of shape (P, images)."""
        return self.logits.argmax(axis=-1)

    @property
    def correct(self) -> np.ndarray:
        """Whether it is the right one, bool of shape (P, images)."""
        return self.classes == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """Its probability, float32 of shape (P, images)."""
        return softmax(self.logits).max(axis=-1)

    def check_cascade(self) -> None:
        """Raises a `ValueError` unless the points are exits in order of
        cost."""
        if not np.all(np.diff(self.madds) > 0):
            raise ValueError(
                "The logits must be those of a cascade's exits, the cheapest "
                f"first. Received: {self.names} of {self.madds} MAdds"
            )

    def take(self, rows) -> "PointLogits":
        """The same for some of the images, by row numbers or a mask."""
        return dataclasses.replace(
            self, logits=self.logits[:, rows], labels=self.labels[rows]
        )

    def save(self, path: str | os.PathLike) -> None:
        """Writes an `.npz` file."""
        with open(path, "wb") as file:
            np.savez(
                file,
                logits=self.logits,
                labels=self.labels,
                madds=self.madds,
                names=self.names,
                fingerprint=self.fingerprint or "",
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "PointLogits":
        """Reads what `save` wrote."""
        with np.load(path) as file:
            content = {key: file[key] for key in file.files}
        fields = {field.name for field in dataclasses.fields(cls)}
        if set(content) != fields:
            raise ValueError(
                f"{os.fspath(path)!r} holds no logits of a model. It has: "
                f"{sorted(content)}"
            )
        content["fingerprint"] = str(content["fingerprint"]) or None
        return cls(**content)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def collect_logits(
    model: Network,
    data: Iterable,
    points: Sequence[OperatingPoint] | None = None,
    verbose: bool = True,
) -> PointLogits:
    """Runs every image at every point, once.

    From what it returns, `anytime`, `budgeted`, `simulate` and `calibrate`
    work without the network. A cascade computes what its exits share once.

    Args:
        model: A classifier.
        data: Batches of (images, labels), labels being class indices, such as
            `data.evaluation_batches` gives. For operating points with a
            resolution, images can be a tuple with a tensor each; those that
            are missing are resized from the largest.
        points: Where to run; by default all operating points.
        verbose: Whether to show the progress.

    Raises:
        TypeError: The model is no `Network`.
        ValueError: Data without batches, with labels that the model does not
            have, or for which it gives NaN; points that it does not have.
    """
    if not isinstance(model, Network):
        raise TypeError(
            "`model` must be a network of this package, such as an `RSNet`. "
            f"Received: {type(model).__name__}"
        )
    points = tuple(points or model.operating_points)
    is_cascade = isinstance(model, Cascade)
    run = (_exits if is_cascade else _each_point)(model, points)
    logits, labels, sizes = [], [], set()
    for images, batch_labels in _batches_of(model, data, verbose):
        if is_cascade:
            if isinstance(images, (tuple, list)):
                images = images_at(images, model.resolution)
            sizes.add(tuple(images.shape[1:3]))
        logits.append(np.stack([np.asarray(z) for z in run(images)]))
        labels.append(batch_labels)
    size = {}
    if is_cascade:
        (height, width), *others = sizes
        if others or height != width:
            raise ValueError(
                "All images must be square and have the same size. "
                f"Received: {sorted(sizes)} pixels"
            )
        size["resolution"] = height
    return PointLogits(
        np.concatenate(logits, axis=1),
        np.concatenate(labels),
        tuple(row.madds for row in model.profile(points, **size)),
        tuple(point.name for point in points),
        model_fingerprint(model),
    )


def count_correct(
    model: Network,
    data: Iterable,
    points: Sequence[OperatingPoint],
    verbose: bool = True,
) -> list[float]:
    """Top-1 accuracy at each point, in [0, 1], keeping no logits.

    Args:
        model: A classifier that is no cascade.
        data, points, verbose: As for `collect_logits`.
    """
    run = _each_point(model, points)
    correct, count = np.zeros(len(points)), 0
    for images, labels in _batches_of(model, data, verbose):
        logits = np.stack([np.asarray(z) for z in run(images)])
        correct += (logits.argmax(axis=-1) == labels).sum(axis=1)
        count += len(labels)
    return (correct / count).tolist()


def _batches_of(model, data, verbose):
    """`labelled_batches` whose labels are classes of the model."""
    for images, labels in labelled_batches(data, verbose):
        if labels.min() < 0 or labels.max() >= model.num_classes:
            raise ValueError(
                f"Labels must be from 0 to {model.num_classes - 1}, the "
                f"classes of {model.name!r}. Received: "
                f"{labels.min()} to {labels.max()}"
            )
        yield images, labels


def _each_point(model, points):
    """A function from a batch to the logits at each point."""
    sizes = [model.resolution_of(point) for point in points]
    passes = [
        compile_function(
            functools.partial(model.logits, point=point),
            (None, size, size, 3),
        )
        for point, size in zip(points, sizes)
    ]

    def run(images):
        return [
            one(ops.convert_to_tensor(images_at(images, size), "float32"))
            for one, size in zip(passes, sizes)
        ]

    return run


def _exits(model, points):
    """The same for a cascade."""
    wanted = [point.exit for point in points]
    if any(
        point != OperatingPoint(exit=point.exit)
        or point.exit not in range(model.num_exits)
        for point in points
    ):
        raise ValueError(
            f"The points of {model.name!r} must be exits from 0 to "
            f"{model.num_exits - 1}. Received: points={points}"
        )

    @compile_function
    def all_exits(images):
        state = model.start(images)
        logits = []
        while state.exit <= max(wanted):
            of_exit, state = model.advance(state)
            logits.append(of_exit)
        return [logits[exit] for exit in wanted]

    return lambda images: all_exits(ops.convert_to_tensor(images))
