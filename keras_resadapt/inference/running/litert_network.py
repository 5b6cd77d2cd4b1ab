"""Inference with LiteRT files."""

import contextlib
import os
from collections.abc import Iterator, Sequence

import numpy as np

from keras_resadapt.inference.storing.confidence import confidence, softmax
from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.number_checks import check_integer


class LiteRTNetwork:
    """A network in a LiteRT file, with one signature per operating point.

    Several threads may call the same object. A LiteRT interpreter can run only
    one call at a time. Calls that overlap in time therefore use separate
    interpreters, which are created when needed and kept for later calls. Each
    interpreter has its own working memory.

    Args:
        path: A file that `export.export_litert` wrote.
        num_threads: The number of threads that one call uses.

    Attributes:
        names: The names of the operating points; in a cascade, cheapest first.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ImportError: If `ai-edge-litert` is not installed.
        ValueError: If `num_threads` is not a positive integer, or `path` is
            not a LiteRT file.

    Example:

    >>> network = LiteRTNetwork("rsnet.tflite")
    >>> logits = network.logits(images, "r160")
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 1):
        self._num_threads = check_integer(num_threads, "num_threads")
        # Read once, so that all interpreters have the same content.
        with open(path, "rb") as file:
            self._content = file.read()
        runners = self._new_interpreter()
        self._idle = [runners]
        self._shapes = {
            name: tuple(int(size) for size in details["images"]["shape"][1:])
            for name, runner in runners.items()
            if "images" in (details := runner.get_input_details())
        }
        self.names = sorted(runners)
        if self.is_cascade:
            self.names.sort(key=lambda name: int(name.removeprefix("exit")))

    def _new_interpreter(self) -> dict:
        """Returns the signature runners of a new interpreter, by name."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ImportError(
                "`LiteRTNetwork` needs ai-edge-litert: install "
                "`keras_resadapt[litert]`."
            ) from error
        interpreter = Interpreter(
            model_content=self._content, num_threads=self._num_threads
        )
        return {
            name: interpreter.get_signature_runner(name)
            for name in interpreter.get_signature_list()
        }

    @contextlib.contextmanager
    def _runners(self) -> Iterator[dict]:
        """Yields the runners of an interpreter that no other thread is using."""
        try:
            runners = self._idle.pop()  # atomic
        except IndexError:
            runners = self._new_interpreter()
        try:
            yield runners
        finally:
            self._idle.append(runners)

    @property
    def is_cascade(self) -> bool:
        """Whether the signatures are the exits of a cascade."""
        return "exit0" in self._shapes

    def logits(self, images, name: str) -> np.ndarray:
        """Returns the logits at one operating point.

        Args:
            images: Array of shape (batch, resolution, resolution, 3).
            name: The name of the operating point. In a cascade, all earlier
                exits run too.

        Returns:
            float32 of shape (batch, classes).
        """
        if name not in self.names:
            raise ValueError(
                f"`name` must be one of {self.names}. Received: name={name!r}"
            )
        count = len(images)
        if self.is_cascade:
            names = self.names[: self.names.index(name) + 1]
        else:
            names = [name]
        tensors = {"images": self._checked(images, names[0])}
        with self._runners() as runners:
            for name in names:
                tensors = dict(runners[name](**tensors))
                logits = tensors.pop("logits")
        return logits[:count]

    def _checked(self, images, name) -> np.ndarray:
        """Returns the images as float32, or one black image if there are none."""
        shape = self._shapes[name]
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
        """Runs each image up to the first confident exit of a cascade.

        Each exit reuses the features of the previous exit.

        Args:
            images: Array of shape (batch, resolution, resolution, 3).
            thresholds: As for `AdaptivePredictor`. It is not checked whether
                they were calibrated for this network.

        Returns:
            The probabilities, float32 of shape (batch, classes), and the exit
            of each image, int32 of shape (batch,).
        """
        if not self.is_cascade:
            raise ValueError(
                f"The file does not hold a cascade. Its signatures are {self.names}."
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
        rows = np.arange(len(tensors["images"]))  # the images that continue
        probabilities, exits = None, np.zeros(len(rows), "int32")
        with self._runners() as runners:
            for exit, name in enumerate(self.names):
                if not len(rows):
                    break
                tensors = dict(runners[name](**tensors))
                logits = tensors.pop("logits")
                of_exit = softmax(logits / thresholds.temperatures[exit])
                if probabilities is None:
                    shape = (len(rows), of_exit.shape[1])
                    probabilities = np.zeros(shape, "float32")
                probabilities[rows], exits[rows] = of_exit, exit
                # An image whose confidence is NaN continues.
                remaining = ~(confidence(of_exit) >= limits[exit])
                rows = rows[remaining]
                tensors = {key: x[remaining] for key, x in tensors.items()}
        return probabilities[:count], exits[:count]
