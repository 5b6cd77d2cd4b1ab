"""Detections in images of any size, and scores of whole data sets."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_resadapt.compiled import compile_any_size
from keras_resadapt.layers.replicas import spans_workers
from keras_resadapt.models.image_arguments import (
    as_batch,
    as_images,
    as_pair,
    as_sizes,
    check_sizes_of_targets,
)
from keras_resadapt.number_checks import check_integer
from keras_resadapt.points import OperatingPoint
from keras_resadapt.training.workers import (
    gather_from_workers,
    is_chief,
    num_workers,
    run_on_chief,
)

# Images whose records the workers exchange at the same time
_RECORDS = 200


class WholeImages:
    """The methods of a network that run outside of graphs, image sizes included.

    They serve tasks that have detections (`Task.prepare_images`) or scores of whole
    data sets (`Task.make_scorer`). `Network` derives from this class.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Compiled passes by operating point
        self._point_functions = {}

    def run_at(
        self: Any, point: OperatingPoint | str, images, targets: Any = None
    ) -> Any:
        """Runs a compiled pass at a point, which is traced once (TensorFlow).

        Args:
            point: The operating point, or its name.
            images: Images at the resolution of the point, of shape
                (batch, height, width, 3).
            targets: What belongs to the images, see `Task.inference_targets`; None
                for images without padding.

        Returns:
            The outputs of the task, as arrays.

        Raises:
            TypeError, ValueError: The network does not have the point, or the images
                or the targets have another shape or type.
        """
        point = self.point_of(point)
        images = as_batch(images)
        if targets is not None:
            if self.task.padded:
                check_sizes_of_targets(targets, len(images))
            targets = self.task.inference_targets(targets)
        key = (point, targets is None)
        if key not in self._point_functions:

            def run(images, *targets):
                if targets:
                    images = {"images": images, "targets": targets[0]}
                return self(images, point=point)

            self._point_functions[key] = compile_any_size(run)
        outputs = self._point_functions[key](
            images, *(() if targets is None else (targets,))
        )
        return keras.tree.map_structure(np.asarray, outputs)

    def detect(
        self: Any,
        images,
        point: OperatingPoint | str | None = None,
        sizes=None,
        batch_size: int = 8,
    ) -> dict[str, Any]:
        """Returns the detections in images of any sizes, for a task that has some.

        Images are resized so that their short side has the resolution of the point.

        Args:
            images: A sequence of images of shape (height, width, 3), or images that
                are padded at the bottom and on the right, of shape
                (batch, height, width, 3). Pixels are in the range that
                `preprocessing` expects.
            point: The operating point, or its name; by default the headline point.
            sizes: Height and width of padded images before they were padded, integers
                of shape (batch, 2); by default they are not padded.
            batch_size: Number of images that run together, a positive integer.

        Returns:
            The outputs of the task as arrays, with boxes in pixels of the images as
            they were passed.

        Raises:
            TypeError: `images` is no array and no sequence of arrays of numbers, or
                `point` no operating point.
            ValueError: The task has no detections, the network does not have the
                point, there are no images, an image has another shape or pixels that
                are not finite, or sizes do not fit the images.
        """
        point = self.headline_point if point is None else self.point_of(point)
        batch_size = check_integer(batch_size, "batch_size")
        images = as_images(images)
        if sizes is not None:
            sizes = as_sizes(sizes, images)
        parts = []
        for start in range(0, max(len(images), 1), batch_size):
            part = slice(start, start + batch_size)
            batch, targets = self.task.prepare_images(
                images[part],
                self.resolution_of(point),
                None if sizes is None else sizes[part],
            )
            outputs = self.run_at(point, batch, targets)
            parts.append(self.task.in_own_pixels(targets, outputs))
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }

    def score_points(
        self: Any, data: Iterable, points: Iterable[OperatingPoint] | None = None
    ) -> dict[str, dict[str, float]]:
        """Scores operating points on a data set, outside of graphs.

        With several workers, all must call it. Each scores the images of its own
        batches. The chief computes the scores of all images, and all workers return
        them. An image that several workers have is counted once.

        Args:
            data: Batches (images, targets), such as those of
                `data.detection_evaluation_batches`: images of the largest resolution,
                from which smaller ones are resized, or a tuple with one tensor per
                resolution of the network. With several workers, those of
                `training.distribute`, which divides the images among the workers.
            points: The operating points; by default `operating_points`.

        Returns:
            The scores of the task by name, by the name of the operating point.

        Raises:
            ValueError: The task has no such scores, `data` has no images or other
                elements than pairs, or the workers have not joined through
                `training.strategy_scope`.
        """
        points = self.points_to_calibrate(points)
        scorers = {point.name: self.task.make_scorer() for point in points}
        if None in scorers.values():
            raise ValueError(f"{type(self.task).__name__} has no scores of points.")
        check_workers_have_joined(self.distribute_strategy)
        batches = _own_batches(data, self.distribute_strategy)
        for images, targets in map(as_pair, batches):
            views = {}
            scorers[points[0].name].check_targets(targets)
            for point in points:
                if point.resolution not in views:
                    # Only sizes are scaled: the objects of an evaluation are in
                    # pixels of the original images.
                    placed = {"size": targets["size"]} if "size" in targets else {}
                    view, placed = self.view_at(images, placed, point)
                    views[point.resolution] = view, {**targets, **placed}
                view, labels = views[point.resolution]
                outputs = self.run_at(point, view, labels)
                scorers[point.name].update_state(labels, outputs)
        return {
            name: _result_of_all_workers(scorer, self.distribute_strategy)
            for name, scorer in scorers.items()
        }

    def evaluate_scores(
        self: Any,
        x,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """Evaluates as `Network.evaluate` does, by `score_points`."""
        if y is not None or sample_weight is not None or not hasattr(x, "__iter__"):
            raise ValueError(
                "`x` must be batches of images and targets, such as a "
                f"`tf.data.Dataset`, without `y` and `sample_weight`. Received: {x}"
            )
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(callbacks, model=self)
        callbacks.on_test_begin()
        batches = itertools.islice(x, steps)
        scores = self.score_points(batches, self.operating_points)
        headline = self.headline_point.name
        logs = dict(scores[headline])
        for name, values in scores.items():
            logs |= {f"{name}_{key}": value for key, value in values.items()}
        callbacks.on_test_end(logs)
        if verbose not in (0, "auto"):
            print(", ".join(f"{k}: {v:.4f}" for k, v in scores[headline].items()))
        return logs if return_dict else list(logs.values())


def check_workers_have_joined(strategy: Any) -> None:
    """Raises a `ValueError` for several workers that cannot exchange their results.

    Args:
        strategy: The strategy of a network.
    """
    if spans_workers(strategy) and num_workers() == 1:
        raise ValueError(
            "Scores over several workers need a strategy of "
            "`training.strategy_scope('multi_worker')`. Received: another "
            f"{type(strategy).__name__}"
        )


def _own_batches(data: Iterable, strategy: Any) -> Iterator[tuple]:
    """Returns the batches of this worker, with several workers those with images.

    Args:
        data: Batches; with several workers also those of a distributed data set.
        strategy: The strategy of the network.
    """
    if not spans_workers(strategy):
        yield from data
        return
    for batch in data:
        # One part per replica of this worker
        leaves = [
            strategy.experimental_local_results(leaf)
            for leaf in keras.tree.flatten(batch)
        ]
        for part in zip(*leaves):
            if len(part[0]):
                yield keras.tree.pack_sequence_as(batch, part)


def _result_of_all_workers(scorer: Any, strategy: Any) -> dict[str, float]:
    """Returns the scores of the images of all workers, which the chief computes.

    Args:
        scorer: A scorer with the images of this worker; see `Task.make_scorer`.
        strategy: The strategy of the network.

    Raises:
        ValueError: No worker has an image.
    """
    records = scorer.records()
    several = spans_workers(strategy)
    counts = gather_from_workers(len(records)) if several else [len(records)]
    if not any(counts):
        raise ValueError("`data` must have at least one image.")
    if not several:
        return scorer.result()
    for start in range(0, max(counts), _RECORDS):
        parts = gather_from_workers(records[start : start + _RECORDS])
        for part in parts if is_chief() else ():
            scorer.add_records(part)
    return gather_from_workers(run_on_chief(scorer.result))[0]
