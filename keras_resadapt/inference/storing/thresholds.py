"""When an image is sure enough to leave a cascade."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence

from keras_resadapt.files import write_json
from keras_resadapt.inference.storing.fingerprint import (
    check_fingerprint,
    model_fingerprint,
)

# A probability is never 1 but for rounding. All that are nearer to it than
# rounding can tell count as this, so that a threshold of 1 keeps every image.
MOST_SURE = 1 - 1e-5


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The confidences at which images leave a cascade (RANet, equation 2).

    An image leaves at the first exit k whose largest probability
    `max softmax(logits_k / temperature_k)` is at least `values[k]`, and at the
    last exit in any case. Probabilities above 1 - 1e-5 count as 1 - 1e-5: at a
    threshold of 1 no image leaves.

    Args:
        values: A threshold in [0, 1] for every exit but the last.
        temperatures: A positive temperature for every exit; by default 1.
        fingerprint: `model_fingerprint` of the model that they were made for;
            None if they are for any model.
    """

    values: tuple[float, ...]
    temperatures: tuple[float, ...] | None = None
    fingerprint: str | None = None

    def __post_init__(self):
        try:
            values = tuple(float(value) for value in self.values)
        except (TypeError, ValueError):
            raise ValueError(
                "Thresholds must be a sequence of numbers; files are read "
                f"with `Thresholds.load`. Received: {self.values!r}"
            ) from None
        if not all(0 <= value <= 1 for value in values):  # nor NaN
            raise ValueError(f"Thresholds must be in [0, 1]. Received: values={values}")
        temperatures = self.temperatures
        if temperatures is None:
            temperatures = (1.0,) * (len(values) + 1)
        temperatures = tuple(float(t) for t in temperatures)
        if len(temperatures) != len(values) + 1 or not all(
            0 < t < math.inf for t in temperatures
        ):
            raise ValueError(
                "`temperatures` must hold a positive number an exit, one more "
                f"than thresholds. Received: temperatures={temperatures} for "
                f"{len(values)} thresholds"
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "temperatures", temperatures)

    @classmethod
    def of(cls, thresholds: "Thresholds | Sequence[float]") -> "Thresholds":
        """Thresholds as they are, or of a sequence of plain numbers."""
        if isinstance(thresholds, cls):
            return thresholds
        return cls(thresholds)

    def check(self, model) -> None:
        """Raises a `ValueError` unless they fit a cascade."""
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
                "The thresholds were made for another model, or before its "
                "last training: calibrate them again.",
            )

    def carried_over(self, model, quantized) -> "Thresholds":
        """The same numbers for the quantized network of a cascade.

        Args:
            model: The cascade that these belong to.
            quantized: What `quantization.quantize` made of it, trained
                further or not. To calibrate again is better.
        """
        self.check(model)
        carried = dataclasses.replace(self, fingerprint=model_fingerprint(quantized))
        carried.check(quantized)
        return carried

    def save(self, path: str | os.PathLike) -> None:
        """Writes a JSON file, complete or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Thresholds":
        """Reads what `save` wrote."""
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if not isinstance(content, dict) or set(content) != {
            field.name for field in dataclasses.fields(cls)
        }:
            raise ValueError(f"{os.fspath(path)!r} holds no thresholds.")
        return cls(**content)
