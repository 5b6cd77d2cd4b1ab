"""The base class of tasks: the interface between a task and the families."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_resadapt.layers.block import Block, LayerSet


class Task:
    """The head, targets, losses, metrics and responses of a network.

    A family (`RSNet`, `MutualNet`) decides how sub-networks share weights and which
    of them teaches which. The task decides everything that depends on what the
    outputs mean. *Outputs* are what the head returns for a batch: a float32 tensor
    with the batch dimension first.

    A task is defined by the arguments of its constructor, which `get_config`
    returns, and holds no variables: one instance can serve several networks.
    Subclasses are registered with `keras.saving.register_keras_serializable`.

    Attributes:
        num_classes: Number of classes, or None for a task without classes.
        divergences: Names of the divergences with which one sub-network can teach
            another, the default first. An empty tuple means that there is neither
            distillation nor an ensemble.
        any_shape: Whether images that are not square can have any height and width
            of at least the backbone's stride. Square images have the operating
            point's resolution.
    """

    num_classes: int | None = None
    divergences: tuple[str, ...] = ()
    any_shape: bool = False

    def head(self, layers: LayerSet, strides: Mapping[str, int]) -> Block:
        """Returns a new head, named `"head"`.

        Args:
            layers: The constructors of the family's layers.
            strides: Stride of each level of the backbone's pyramid, from fine to
                coarse, such as `{"P2": 4, "P3": 8}`.

        Returns:
            A `Block` that is called as `head(pyramid, point=point, training=...)`
            and calls its layers through the point.
        """
        raise NotImplementedError

    def check_targets(self, targets) -> None:
        """Raises an error for targets that cannot be trained on or evaluated."""

    def align(self, outputs: Any, size: tuple[int, int]) -> Any:
        """Returns outputs in a form in which those of different resolutions agree.

        Losses, ensembles, distillation and metrics take aligned outputs.

        Args:
            outputs: Outputs of one operating point.
            size: Height and width in pixels: of the targets in `fit` and `evaluate`,
                if these have a size (`target_size`); else of the largest images of
                the batch. Integers, or scalar tensors.
        """
        return outputs

    def target_size(self, targets) -> tuple[int, int] | None:
        """Returns height and width of the targets; None for targets without pixels."""
        return None

    def divergence_weights(self, targets, sample_weight=None) -> Any:
        """Returns the sample weights of a divergence, which has no targets.

        Args:
            targets: The targets of the batch.
            sample_weight: Those that the user passed, or None.

        Returns:
            Weights of a form that `divergence` takes, with which outputs without a
            target count for nothing; None for no weights.
        """
        return sample_weight

    def make_loss(self, loss: Any = None) -> Callable | None:
        """Returns the loss of one sub-network.

        Args:
            loss: What the user passed to `compile`; None for the default.

        Returns:
            A function of (targets, aligned outputs, sample weights or None) that
            returns a scalar, such as a `keras.losses.Loss` that takes logits. None
            where there is no default.

        Raises:
            ValueError: A loss that does not fit the task.
        """
        raise NotImplementedError

    def divergence(self, name: str) -> Callable:
        """Returns how one sub-network teaches another.

        Args:
            name: One of `divergences`.

        Returns:
            A function of (teacher's outputs, student's outputs, sample weights or
            None) that returns a scalar and whose gradient does not reach the
            teacher.
        """
        raise NotImplementedError

    def make_metrics(self, metrics: Sequence | None) -> list:
        """Returns the metrics of one operating point.

        Args:
            metrics: What the user passed to `compile`, as a list; None for the
                task's default.
        """
        return list(metrics or ())

    def make_score(self) -> Any:
        """Returns a metric of one number in [0, 1], higher being better.

        `inference.QueryTable` measures it as the accuracy of an operating point. None
        for the top-1 accuracy of class indices.
        """
        return None

    def response(self, outputs: Any, class_names: Sequence[str] | None = None) -> dict:
        """Returns the outputs of a signature, tensors by name (TensorFlow).

        Args:
            outputs: Outputs of one operating point.
            class_names: A name for each class, or None.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Task":
        return cls(**config)

    def __eq__(self, other) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"
