"""Runs what `export.export_litert` wrote."""

import os
from collections.abc import Sequence

import numpy as np

from keras_resadapt.inference.storing.point_logits import softmax
from keras_resadapt.inference.storing.thresholds import MOST_SURE, Thresholds


class LiteRTNetwork:
    """A network in a LiteRT file, one signature an operating point.

    Args:
        path: The file.
        num_threads: How many threads a pass uses.

    Attributes:
        names: The operating points' names; a cascade's in order of cost.

    Raises:
        ImportError: `ai-edge-litert` is not installed.

    Example:

    >>> network = LiteRTNetwork("rsnet.tflite")
    >>> logits = network.logits(images, "r160")
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 1):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ImportError(
                "`LiteRTNetwork` needs ai-edge-litert: install "
                "`keras_resadapt[litert]`."
            ) from error
        self._interpreter = Interpreter(os.fspath(path), num_threads=num_threads)
        self.names = sorted(self._interpreter.get_signature_list())
        self._runners = {
            name: self._interpreter.get_signature_runner(name) for name in self.names
        }
        if self.is_cascade:
            self.names.sort(key=lambda name: int(name.removeprefix("exit")))

    @property
    def is_cascade(self) -> bool:
        """Whether signatures go on from one another."""
        return "exit0" in self.names

    def logits(self, images, name: str) -> np.ndarray:
        """The logits at a point, and of a cascade what it needs before.

        Args:
            images: Array of shape (batch, resolution, resolution, 3).
            name: The point's name.

        Returns:
            float32 of shape (batch, classes).
        """
        if name not in self._runners:
            raise ValueError(
                f"`name` must be one of {self.names}. Received: name={name!r}"
            )
        tensors = {"images": self._checked(images, name)}
        names = self.names[: self.names.index(name) + 1]
        for name in names if self.is_cascade else [name]:
            tensors = dict(self._runners[name](**tensors))
            logits = tensors.pop("logits")
        return logits[: len(images)]

    def _checked(self, images, name) -> np.ndarray:
        """The images of a batch, or one of zeros for none."""
        first = "exit0" if self.is_cascade else name
        details = self._runners[first].get_input_details()["images"]
        shape = tuple(int(size) for size in details["shape"][1:])
        images = np.asarray(images, "float32")
        if images.shape[1:] != shape:
            raise ValueError(
                f"`images` must have shape {(None, *shape)}. "
                f"Received: shape {images.shape}"
            )
        return images if len(images) else np.zeros((1, *shape), "float32")

    def adaptive(
        self, images, thresholds: Thresholds | Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Takes each image to the first exit that is sure of it.

        What an exit computed is handed on to the next one.

        Args:
            images: Array of shape (batch, resolution, resolution, 3).
            thresholds: As for `AdaptivePredictor`; not checked to be of this
                network.

        Returns:
            Probabilities, float32 of shape (batch, classes), and the exit of
            each image, int32.
        """
        if not self.is_cascade:
            raise ValueError(
                f"The file holds no cascade: its signatures are {self.names}."
            )
        thresholds = Thresholds.of(thresholds)
        limits = np.array((*thresholds.values, 0.0), "float32")
        if len(limits) != len(self.names):
            raise ValueError(
                f"`thresholds` must have {len(self.names) - 1} numbers, one "
                "for each exit but the last. "
                f"Received: {len(limits) - 1}"
            )
        count = len(images)
        tensors = {"images": self._checked(images, self.names[0])}
        rows = np.arange(len(tensors["images"]))  # those that go on
        probabilities, exits = None, np.zeros(len(rows), "int32")
        for exit, name in enumerate(self.names):
            if not len(rows):
                break
            tensors = dict(self._runners[name](**tensors))
            answer = softmax(tensors.pop("logits") / thresholds.temperatures[exit])
            if probabilities is None:
                shape = (len(rows), answer.shape[1])
                probabilities = np.zeros(shape, "float32")
            probabilities[rows], exits[rows] = answer, exit
            confidence = np.minimum(answer.max(axis=1), MOST_SURE)
            unsure = ~(confidence >= limits[exit])  # as NaN is
            rows = rows[unsure]
            tensors = {key: x[unsure] for key, x in tensors.items()}
        return probabilities[:count], exits[:count]
