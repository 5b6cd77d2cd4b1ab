"""The confidence thresholds of a cascade."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from keras_resadapt.files import read_json, write_json
from keras_resadapt.inference.storing.fingerprint import (
    check_fingerprint,
    model_fingerprint,
)
from keras_resadapt.number_checks import check_number

_MAX_EXITS = 1000


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """A confidence threshold for each exit of a cascade but the last.

    An image exits at the first exit k whose confidence
    `max(softmax(logits_k / temperature_k))` is at least `values[k]`, or at the
    last exit (RANet, equation 2). Confidences are limited to 1 - 1e-5, so that
    no image exits early at a threshold of 1.

    Args:
        values: A threshold in [0, 1] for each exit but the last.
        temperatures: A positive temperature for each exit; 1 by default.
        fingerprint: The `model_fingerprint` of the model that the thresholds
            are valid for; None if they are valid for any model.

    Raises:
        ValueError: If the values or the temperatures are not sequences of
            numbers in their ranges, or their lengths do not match.
    """

    values: tuple[float, ...]
    temperatures: tuple[float, ...] | None = None
    fingerprint: str | None = None

    def __post_init__(self):
        values = _numbers(self.values, "values", 0.0, 1.0)
        temperatures = self.temperatures
        if temperatures is None:
            temperatures = (1.0,) * (len(values) + 1)
        temperatures = _numbers(temperatures, "temperatures", 0.0)
        if len(temperatures) != len(values) + 1 or 0.0 in temperatures:
            raise ValueError(
                "`temperatures` must hold one positive number per exit, one "
                f"more than `values`. Received: temperatures={temperatures} "
                f"for {len(values)} thresholds"
            )
        if not isinstance(self.fingerprint, str | None):
            raise ValueError(
                "`fingerprint` must be a string or None. "
                f"Received: fingerprint={self.fingerprint!r}"
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "temperatures", temperatures)

    @classmethod
    def of(cls, thresholds: "Thresholds | Sequence[float]") -> "Thresholds":
        """Returns thresholds unchanged, and makes them of a sequence of numbers."""
        if isinstance(thresholds, cls):
            return thresholds
        return cls(thresholds)

    def check(self, model) -> None:
        """Raises a `ValueError` unless the thresholds are valid for a cascade."""
        expected = model.num_exits - 1
        if len(self.values) != expected:
            raise ValueError(
                f"{model.name!r} has {model.num_exits} exits and needs "
                f"{expected} thresholds. Received: {len(self.values)}"
            )
        if self.fingerprint is not None:
            check_fingerprint(
                model,
                self.fingerprint,
                "The thresholds were calibrated for another model, or before "
                "the model's last training: calibrate them again.",
            )

    def carried_over(self, model, quantized) -> "Thresholds":
        """Returns the same numbers for the quantized network of a cascade.

        Calibrating the quantized network is better.

        Args:
            model: The cascade that the thresholds are valid for.
            quantized: The result of `quantization.quantize(model)`, possibly
                trained further.
        """
        self.check(model)
        carried = dataclasses.replace(self, fingerprint=model_fingerprint(quantized))
        carried.check(quantized)
        return carried

    def save(self, path: str | os.PathLike) -> None:
        """Writes a JSON file, completely or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Thresholds":
        """Reads a file that `save` wrote.

        Raises:
            ValueError: If the file does not hold valid thresholds. The message
                names the file.
        """
        content = read_json(path)
        fields = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(content, dict) or set(content) != fields:
            raise ValueError(f"{os.fspath(path)!r} does not hold thresholds.")
        try:
            return cls(**content)
        except ValueError as error:
            raise ValueError(
                f"{os.fspath(path)!r} does not hold valid thresholds: {error}"
            ) from None


def _numbers(values, argument, minimum, maximum=np.inf) -> tuple[float, ...]:
    """Validates a sequence of numbers; arrays and tensors count as sequences."""
    if hasattr(values, "dtype"):
        values = np.asarray(values).tolist()
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__iter__"):
        raise ValueError(
            f"`{argument}` must be a sequence of numbers, one per exit; files "
            f"are read with `Thresholds.load`. Received: {argument}={values!r}"
        )
    values = tuple(values)
    if len(values) > _MAX_EXITS:
        raise ValueError(
            f"`{argument}` must hold at most {_MAX_EXITS} numbers. "
            f"Received: {len(values)} numbers"
        )
    return tuple(
        check_number(
            value.numpy().item() if hasattr(value, "numpy") else value,
            f"{argument}[{index}]",
            minimum,
            maximum,
        )
        for index, value in enumerate(values)
    )
