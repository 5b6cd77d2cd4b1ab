"""One pass over a data set at several operating points."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from keras import ops

from keras_resadapt.backend import require_tensorflow_or_jax
from keras_resadapt.batches import images_at, labelled_batches, target_batches
from keras_resadapt.checks import check_network, check_points
from keras_resadapt.compiled import compile_function
from keras_resadapt.inference.storing.fingerprint import model_fingerprint
from keras_resadapt.inference.storing.point_logits import PointLogits
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint


def collect_logits(
    model: Network,
    data: Iterable,
    points: Sequence[OperatingPoint] | None = None,
    verbose: bool = True,
) -> PointLogits:
    """Runs every image once at every operating point.

    `anytime`, `budgeted`, `simulate` and `calibrate` need only the returned
    logits. In a cascade, computations shared by several exits run once.

    Args:
        model: A classifier.
        data: Batches (images, labels), for example from
            `data.evaluation_batches`. Labels are class indices. For operating
            points with a resolution, images can be a tuple with one tensor per
            resolution; missing resolutions are resized from the largest.
        points: Operating points; by default all of the model.
        verbose: Whether to show a progress bar.

    Raises:
        RuntimeError: On any backend other than TensorFlow and JAX.
        TypeError: If `model` is not a network of this package.
        ValueError: If the data has no batches, labels that the model does not
            have or images of a wrong shape; if a logit is not finite; or if
            the model does not have one of the points.
    """
    require_tensorflow_or_jax("collect_logits")
    check_network(model)
    points = check_points(points, model)
    if isinstance(model, Cascade):
        logits, labels, size = _run_cascade(model, data, points, verbose)
        rows = model.profile(points, resolution=size)
    else:
        logits, labels = _run_points(model, data, points, verbose)
        rows = model.profile(points)
    return PointLogits(
        np.concatenate(logits, axis=1),
        np.concatenate(labels),
        tuple(row.madds for row in rows),
        tuple(point.name for point in points),
        model_fingerprint(model),
    )


def count_correct(
    model: Network,
    data: Iterable,
    points: Sequence[OperatingPoint],
    verbose: bool = True,
) -> list[float]:
    """Returns the top-1 accuracy in [0, 1] at each point.

    Unlike `collect_logits`, it stores no logits.

    Args:
        model: A classifier that is not a cascade.
        data, points, verbose: As for `collect_logits`.
    """
    run = _each_point(model, points)
    correct, count = np.zeros(len(points)), 0
    for images, labels in _class_batches(model, data, verbose):
        logits = np.stack(run(images))
        correct += (logits.argmax(axis=-1) == labels).sum(axis=1)
        count += len(labels)
    return (correct / count).tolist()


def measure_scores(
    model: Network,
    data: Iterable,
    points: Sequence[OperatingPoint],
    verbose: bool = True,
) -> list[float]:
    """Returns the score of the network's task in [0, 1] at each point.

    Args:
        model: A network that is not a cascade.
        data: Batches (images, targets); images as for `collect_logits`, targets as the
            task takes them.
        points, verbose: As for `collect_logits`.
    """
    scores = [model.task.make_score() for _ in points]
    if None in scores:
        return count_correct(model, data, points, verbose)
    run = _each_point(model, points)
    for images, targets in target_batches(data, verbose):
        model.task.check_targets(targets)
        size = model.task.target_size(targets)
        for score, outputs in zip(scores, run(images)):
            score.update_state(targets, model.task.align(outputs, size))
    return [float(score.result()) for score in scores]


def _class_batches(model, data, verbose) -> Iterator:
    """Yields `labelled_batches` whose labels are classes of the model."""
    for images, labels in labelled_batches(data, verbose):
        if labels.min() < 0 or labels.max() >= model.num_classes:
            raise ValueError(
                f"Labels must be from 0 to {model.num_classes - 1}, the classes of "
                f"{model.name!r}. Received: `data` with labels from "
                f"{labels.min()} to {labels.max()}"
            )
        yield images, labels


def _run_points(model, data, points, verbose) -> tuple[list, list]:
    """Returns the logits (points, batch, classes) and labels of each batch."""
    run = _each_point(model, points)
    logits, labels = [], []
    for images, batch_labels in _class_batches(model, data, verbose):
        logits.append(np.stack(run(images)))
        labels.append(batch_labels)
    return logits, labels


def _run_cascade(model, data, points, verbose) -> tuple[list, list, int]:
    """Returns the logits and labels of each batch, and the images' size."""
    run = _all_exits(model, points)
    logits, labels, sizes = [], [], set()
    for images, batch_labels in _class_batches(model, data, verbose):
        if isinstance(images, (tuple, list)):
            images = images_at(images, model.resolution)
        sizes.add(tuple(images.shape[1:3]))
        logits.append(np.stack(run(images)))
        labels.append(batch_labels)
    (height, width), *others = sizes
    if others or height != width:
        raise ValueError(
            "All images in `data` must be square and have the same size. "
            f"Received: {sorted(sizes)} pixels"
        )
    return logits, labels, height


def _each_point(model, points) -> Callable:
    """Returns a function from a batch of images to the logits at each point."""
    sizes = [model.resolution_of(point) for point in points]
    any_shape = model.task.any_shape
    shapes = [() if any_shape else ((None, s, s, 3),) for s in sizes]
    passes = [
        compile_function(functools.partial(model.logits, point=point), *shape)
        for point, shape in zip(points, shapes)
    ]

    def run(images):
        return [
            np.asarray(one(ops.convert_to_tensor(view, "float32")))
            for one, view in zip(
                passes, (images_at(images, size, any_shape) for size in sizes)
            )
        ]

    return run


def _all_exits(model, points) -> Callable:
    """Returns a function from a batch of images to the logits of each exit."""
    wanted = [point.exit for point in points]
    if any(
        point != OperatingPoint(exit=point.exit)
        or point.exit not in range(model.num_exits)
        for point in points
    ):
        raise ValueError(
            f"The `points` of {model.name!r} must be exits from 0 to "
            f"{model.num_exits - 1}. Received: points={points}"
        )

    @compile_function
    def run(images):
        state = model.start(images)
        logits = []
        while state.exit <= max(wanted):
            of_exit, state = model.advance(state)
            logits.append(of_exit)
        return [logits[exit] for exit in wanted]

    return lambda images: [np.asarray(x) for x in run(ops.convert_to_tensor(images))]
