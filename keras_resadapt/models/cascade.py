"""Networks whose exits are tried in order of cost."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_resadapt import losses
from keras_resadapt.layers import LayerSet
from keras_resadapt.models.network import Network
from keras_resadapt.points import OperatingPoint
from keras_resadapt.profile import ProfileRow, profile_cascade
from keras_resadapt.tasks import Classification, Features


@dataclasses.dataclass(frozen=True)
class CascadeState:
    """The features of a batch of images that a cascade has computed up to an exit.

    Attributes:
        model: The cascade that the state belongs to.
        exit: The exit that `advance` computes next, from 0.
        features: Nested lists and dicts of tensors. The first dimension of each is
            the batch, so that a subset of the images can go on.
        point: The operating point, for its axes other than the exit.
    """

    model: "Cascade"
    exit: int
    features: Any
    point: OperatingPoint = OperatingPoint()

    def take(self, rows) -> "CascadeState":
        """Returns the state of a subset of the images, by their integer indices."""
        features = keras.tree.map_structure(
            lambda x: ops.take(x, rows, axis=0), self.features
        )
        return dataclasses.replace(self, features=features)


class Cascade(Network):
    """A classifier with exits in order of cost.

    Each exit reuses what earlier exits have computed:

    >>> state = model.start(images)
    >>> while state.exit < model.num_exits:
    ...     logits, state = model.advance(state)
    ...     state = state.take(indices_of_images_that_go_on)

    A family defines `begin`, `extend` and `classify`, sets `num_exits` and
    `resolution` in its constructor and ends it with `build_from_point()`. It has
    its own classifiers, and so always the task `Classification`.

    `model(images)` returns a dict of the logits of all exits, `"exit0"`, ...;
    `model.logits(images, point)` returns the logits of one exit, and does not compute
    what only other exits need.

    The loss is the sum of the cross-entropies of all exits. Two techniques of Li et
    al. (Improved Techniques for Training Adaptive Deep Networks, ICCV 2019) are
    options.

    Args:
        num_classes: Number of classes.
        gradient_equilibrium: Whether to divide the gradients that K - k exits send
            back to the features before exit k (from 0) by K - k (section 3.1 there).
        distillation_weight: w in [0, 1]. All exits but the last one learn
            `(1 - w) CE(y, p_k) + w T^2 KL(p_K || p_k)`. No gradient reaches the last
            exit's p_K (section 3.3 there).
        temperature: T, which divides the logits in the second term.

    Attributes:
        operating_points: The exits, the cheapest first.
        num_exits: K.
        resolution: Height and width in pixels of the images that the network
            was made for.
    """

    num_exits: int
    resolution: int

    def __init__(
        self,
        num_classes: int,
        gradient_equilibrium: bool = False,
        distillation_weight: float = 0.0,
        temperature: float = 1.0,
        **kwargs,
    ):
        super().__init__(Classification(num_classes), **kwargs)
        if not 0 <= distillation_weight <= 1:
            raise ValueError(
                "`distillation_weight` must be in [0, 1]. "
                f"Received: distillation_weight={distillation_weight}"
            )
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive. Received: {temperature}")
        self.gradient_equilibrium = gradient_equilibrium
        self.distillation_weight = distillation_weight
        self.temperature = temperature

    @property
    def operating_points(self) -> tuple[OperatingPoint, ...]:  # type: ignore[override]
        return tuple(OperatingPoint(exit=k) for k in range(self.num_exits))

    # === What a family defines ===

    def begin(self, images, point: OperatingPoint, training=None):
        """Returns the features from which the first exit starts."""
        raise NotImplementedError

    def extend(self, features, exit: int, point: OperatingPoint, training=None):
        """Returns the features of an exit, from those of the previous exit.

        If `point.exit` is not None, only that exit is computed, and features that
        only earlier exits need can be left out.
        """
        raise NotImplementedError

    def exit_features(self, features, exit: int):
        """Returns the tensor that the classifier of an exit takes.

        Args:
            features: The features of that exit.
            exit: Index of the exit.
        """
        raise NotImplementedError

    def classify(self, features, exit: int, point: OperatingPoint, training=None):
        """Returns the float32 logits of an exit, from its features."""
        raise NotImplementedError

    def check_images(self, images) -> None:
        """Raises a `ValueError` for images of a size that is not supported."""
        if len(images.shape) != 4 or None in tuple(images.shape)[1:]:
            raise ValueError(
                "Images must have shape (batch, height, width, 3) with a "
                f"known height and width. Received: shape {images.shape}"
            )

    # === The protocol ===

    def start(
        self, images, point: OperatingPoint = OperatingPoint(), training=None
    ) -> CascadeState:
        """Returns the state from which the first exit can be computed.

        Args:
            images: Tensor of shape (batch, height, width, 3), in the range
                that `preprocessing` expects.
            point: Operating point, for axes other than the exit.
            training: As for `call`.
        """
        self.check_images(images)
        return CascadeState(self, 0, self.begin(images, point, training), point)

    def advance(self, state: CascadeState, training=None) -> tuple[Any, CascadeState]:
        """Computes the next exit.

        Returns:
            float32 logits of shape (batch, classes), and the next state.

        Raises:
            ValueError: For a state from another model, or after the last
                exit.
        """
        if state.model is not self:
            raise ValueError(
                f"`state` must come from this model, {self.name!r}. "
                f"Received: a state from the model {state.model.name!r}"
            )
        if state.exit >= self.num_exits:
            raise ValueError(
                f"`state` is after the last exit: {self.name!r} has "
                f"{self.num_exits} exits."
            )
        features = self.extend(state.features, state.exit, state.point, training)
        own = features
        if self.gradient_equilibrium and training:
            # K - k exits depend on these features; each gets an equal share.
            left = self.num_exits - state.exit
            own = scale_gradient(features, 1 / left)
            features = scale_gradient(features, (left - 1) / left)
        logits = self.classify(own, state.exit, state.point, training)
        return logits, dataclasses.replace(
            state, exit=state.exit + 1, features=features
        )

    # === Forward ===

    @property
    def headline_point(self) -> OperatingPoint:
        return self.operating_points[-1]

    def check_point(self, point: OperatingPoint) -> None:
        """Raises a `ValueError` unless the network can run at a point."""
        if (
            (point.resolution, point.width) != (None, None)
            or point.exit is not None  # else all exits
            and point.exit >= self.num_exits
        ):
            raise ValueError(
                f"`point` must be an exit from 0 to {self.num_exits - 1}, without a "
                f"resolution or a width. Received: point={point}"
            )

    def points_to_calibrate(self, points=None) -> list[OperatingPoint]:
        if points is not None:
            raise ValueError(
                "`points` must be None for a cascade, which is calibrated as a whole. "
                f"Received: points={points}"
            )
        return [OperatingPoint()]

    def call(self, inputs, point: OperatingPoint | None = None, training=None):
        if point is not None and point.exit is not None:
            return self._one_exit(inputs, point, training)
        if point is not None and (point.resolution, point.width) != (None, None):
            self.check_point(point)
        state = self.start(inputs, point or OperatingPoint(), training)
        logits = {}
        while state.exit < self.num_exits:
            name = dataclasses.replace(state.point, exit=state.exit).name
            logits[name], state = self.advance(state, training)
        return logits

    def _one_exit(self, images, point, training):
        self.check_point(point)
        self.check_images(images)
        features = self.begin(images, point, training)
        for exit in range(point.exit + 1):
            features = self.extend(features, exit, point, training)
        return self.classify(features, point.exit, point, training)

    def features(
        self,
        images,
        point: OperatingPoint | str | None = None,
        training: bool = False,
        pooling: str | None = "avg",
    ):
        """Returns the features that the classifier of an exit takes.

        Args:
            images: As for `logits`.
            point: The exit, or its name; by default the last one.
            training: As for `logits`.
            pooling: `"avg"` or `"max"` over height and width, or None.

        Returns:
            float32 tensor of shape (batch, channels), or
            (batch, height, width, channels) without pooling.
        """
        point = self.headline_point if point is None else self.point_of(point)
        self.check_images(images)
        features = self.begin(images, point, training)
        for exit in range(point.exit + 1):
            features = self.extend(features, exit, point, training)
        head = Features(pooling).head(LayerSet(), {})
        return head({"last": self.exit_features(features, point.exit)}, point=point)

    def build_from_point(self, point: OperatingPoint = OperatingPoint()) -> None:
        super().build_from_point(point)

    def profile(
        self,
        points: Iterable[OperatingPoint] | None = None,
        resolution: int | None = None,
    ) -> list[ProfileRow]:
        """Counts multiply-adds and parameters, one row per exit.

        Args:
            points: The exits to count; by default all of them.
            resolution: Height and width of the images in pixels; by default the
                network's resolution.
        """
        size = resolution or self.resolution
        return profile_cascade(self, (size, size, 3), points)

    # === Training ===

    def prepare_inputs(self, images):
        return images

    def loss_terms(self, y, logits: dict, sample_weight=None) -> dict:
        """Returns the terms whose sum is the loss, one per exit.

        Args:
            y: Labels, as the compiled loss takes them.
            logits: The dict that the model returns for images.
            sample_weight: Optional weights of shape (batch,).
        """
        weight = self.distillation_weight
        divergence = losses.Distillation(self.temperature)
        *earlier, last = self.output_names
        terms = {}
        for name in earlier:
            terms[name] = self.task_loss(y, logits[name], sample_weight)
            if weight:
                terms[name] = (1 - weight) * terms[
                    name
                ] + weight * self.temperature**2 * divergence(
                    logits[last], logits[name], sample_weight
                )
        terms[last] = self.task_loss(y, logits[last], sample_weight)
        return terms

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "gradient_equilibrium": self.gradient_equilibrium,
            "distillation_weight": self.distillation_weight,
            "temperature": self.temperature,
        }


def scale_gradient(features, scale: float):
    """Returns the same features, and multiplies their gradients by `scale`."""

    def scale_one(x):
        fixed = ops.stop_gradient(x)
        return fixed + ops.cast(scale, x.dtype) * (x - fixed)

    return keras.tree.map_structure(scale_one, features)
