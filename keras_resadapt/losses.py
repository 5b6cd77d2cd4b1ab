"""Losses of classification, and between the operating points of a network."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

DISTILLATIONS = ("none", "vanilla", "full", "no_ensemble", "largest_only")


@keras.saving.register_keras_serializable("keras_resadapt")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits (RS-Net, equation 1).

    Args:
        label_smoothing: Share of the target spread evenly over all classes,
            in [0, 1).

    Call arguments:
        y_true: Class indices of shape (batch,) or (batch, 1), or class
            probabilities of shape (batch, classes). The loss of an index that is
            not an integer in [0, classes) is NaN, so that it does not remain
            unnoticed.
        y_pred: Logits of shape (batch, classes).

    Raises:
        ValueError: If `label_smoothing` is outside [0, 1), or the shape of
            `y_true` is none of the above.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "cross_entropy",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be in [0, 1). "
                f"Received: label_smoothing={label_smoothing}"
            )
        self.label_smoothing = float(label_smoothing)

    def call(self, y_true, y_pred):
        classes = y_pred.shape[-1]
        shape = tuple(y_true.shape)
        if len(shape) == 2 and shape[1] == classes > 1:
            targets = ops.cast(y_true, y_pred.dtype)
        elif len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, None)):
            targets = _one_hot(ops.reshape(y_true, (-1,)), classes, y_pred.dtype)
        else:
            raise ValueError(
                "`y_true` must be class indices of shape (batch,) or (batch, 1), or "
                f"probabilities of shape (batch, {classes}). Received: y_true of "
                f"shape {shape}"
            )
        if self.label_smoothing:
            targets = (
                targets * (1 - self.label_smoothing) + self.label_smoothing / classes
            )
        return -ops.sum(targets * ops.log_softmax(y_pred), axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
        }


def _one_hot(labels, classes, dtype):
    """Returns one row per label, of NaN for a label that is not a class."""
    # Before the cast to integers, which wraps large numbers around.
    valid = ops.logical_and(labels >= 0, labels < classes)
    valid = ops.logical_and(valid, ops.equal(labels, ops.floor(labels)))
    indices = ops.cast(ops.where(valid, labels, 0), "int32")
    targets = ops.one_hot(indices, classes, dtype=dtype)
    return ops.where(valid[:, None], targets, float("nan"))


def soft_cross_entropy(targets: Any, logits: Any, total: float = 1.0) -> Any:
    """Returns -sum_c t_c log softmax(z)_c for targets t and logits z.

    The gradient with respect to the logits is `total * softmax(z) - t`, which the
    forward pass computes from the same softmax.

    Args:
        targets: Non-negative tensor of shape (..., classes). No gradient flows to it.
        logits: Tensor of the same shape.
        total: The sum of the targets over the classes.

    Returns:
        Tensor of shape (...).
    """

    @ops.custom_gradient
    def cross_entropy(targets, logits):
        probabilities = ops.softmax(logits)
        scaled = probabilities if total == 1 else total * probabilities
        gradient = scaled - targets

        def grad(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return ops.zeros_like(targets), gradient * upstream[..., None]

        normalizer = _log_sum_exp(logits, probabilities)
        return total * normalizer - ops.sum(targets * logits, axis=-1), grad

    return cross_entropy(ops.stop_gradient(targets), logits)


def _log_sum_exp(logits, probabilities):
    """Returns log sum_c exp(z_c) for logits z and their softmax."""
    return ops.max(logits, axis=-1) - ops.log(ops.max(probabilities, axis=-1))


def _sum_of_divergences(logits: Sequence, pairs: Sequence[tuple[int, int]]):
    """Returns the sum of KL(p_t || p_s) over pairs (t, s).

    It equals sum_s CE(sum_t p_t, p_s) - sum_t H(p_t), where CE is the cross-entropy,
    with one term per student s, and H is the entropy. Each softmax is computed
    once. Sums of teachers that begin with the same teachers share their parts.

    Args:
        logits: Tensors of shape (..., classes).
        pairs: Indices of the teacher and of the student, sorted by teacher.

    Returns:
        Tensor of shape (...).
    """
    fixed = [ops.stop_gradient(z) for z in logits]
    probabilities = {t: ops.softmax(fixed[t]) for t in sorted({t for t, _ in pairs})}
    sums = {(t,): p for t, p in probabilities.items()}
    total = 0.0
    for student in sorted({s for _, s in pairs}):
        teachers = tuple(t for t, s in pairs if s == student)
        for n in range(2, len(teachers) + 1):
            if teachers[:n] not in sums:
                last = probabilities[teachers[n - 1]]
                sums[teachers[:n]] = sums[teachers[: n - 1]] + last
        total += soft_cross_entropy(sums[teachers], logits[student], len(teachers))
    for t, p in probabilities.items():
        entropy = _log_sum_exp(fixed[t], p) - ops.sum(p * fixed[t], axis=-1)
        total -= sum(teacher == t for teacher, _ in pairs) * entropy
    return total


@keras.saving.register_keras_serializable("keras_resadapt")
class Distillation(keras.losses.Loss):
    """KL(p_teacher || p_student) of logits (RS-Net, equation 7).

    No gradient flows to the teacher.

    Args:
        temperature: Positive number that divides both logits before the
            softmax.

    Call arguments:
        y_true: The teacher's logits, of shape (..., classes).
        y_pred: The student's logits, of the same shape.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "distillation",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        if not temperature > 0:
            raise ValueError(
                f"`temperature` must be positive. Received: temperature={temperature}"
            )
        self.temperature = float(temperature)

    def call(self, y_true, y_pred):
        return self.sum_over_pairs([y_true, y_pred], [(0, 1)])

    def sum_over_pairs(self, logits, pairs):
        """Returns the sum over pairs (teacher, student) of indices, per image."""
        if self.temperature != 1:
            logits = [z / self.temperature for z in logits]
        return _sum_of_divergences(logits, pairs)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


class _PairwiseDistillation(Distillation):
    """The sum of `Distillation` over pairs of the ensemble and the resolutions.

    Args:
        pairs: Indices (teacher, student), 0 for the ensemble.
        **kwargs: As for `Distillation`.

    Call arguments:
        y_true: The ensemble's logits, of shape (..., classes).
        y_pred: A list of logits of the same shape, the largest resolution first.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], **kwargs):
        super().__init__(**kwargs)
        self.pairs = pairs

    def call(self, y_true, y_pred):
        return self.sum_over_pairs([y_true, *y_pred], self.pairs)


@keras.saving.register_keras_serializable("keras_resadapt")
class AlphaDivergence(keras.losses.Loss):
    """The adaptive, clipped alpha-divergence of logits (AlphaNet).

    For a teacher p, a student q and r = p / q, it is

        D_alpha(p || q) = (sum q r^alpha - 1) / (alpha (alpha - 1)),

    or KL(p || q) for alpha = 1. `alpha_min` penalizes mass of q where p has
    none, and `alpha_max` mass of p where q has none. Each image uses the larger
    of the two divergences (equation 9).

    The weights r^alpha are clipped at `clip`, except for alpha = 1, for which
    q r^alpha is p. The gradient is that of the importance-weighted
    log-likelihood with these weights held fixed, which bounds the gradient of
    each image. No gradient flows to the teacher.

    Args:
        alpha_min: Negative number.
        alpha_max: Positive number.
        clip: Largest weight, at least 1.

    Call arguments:
        y_true: The teacher's logits, of shape (batch, classes).
        y_pred: The student's logits, of the same shape.

    Reference:
        AlphaNet: Improved Training of Supernets with Alpha-Divergence
        (https://arxiv.org/abs/2102.07954), section 3.
    """

    def __init__(
        self,
        alpha_min: float = -1.0,
        alpha_max: float = 1.0,
        clip: float = 5.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "alpha_divergence",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        if not (alpha_min < 0 < alpha_max and clip >= 1):
            raise ValueError(
                "`alpha_min` must be negative, `alpha_max` positive and `clip` "
                f"at least 1. Received: alpha_min={alpha_min}, "
                f"alpha_max={alpha_max}, clip={clip}"
            )
        self.alpha_min = float(alpha_min)
        self.alpha_max = float(alpha_max)
        self.clip = float(clip)

    def call(self, y_true, y_pred):
        log_p = ops.log_softmax(ops.stop_gradient(y_true))
        log_q = ops.log_softmax(y_pred)
        low, low_gradient = self._divergence(log_p, log_q, self.alpha_min)
        high, high_gradient = self._divergence(log_p, log_q, self.alpha_max)
        value = ops.maximum(low, high)
        surrogate = ops.where(low > high, low_gradient, high_gradient)
        # The value of the divergence with the gradient of the surrogate
        return surrogate + ops.stop_gradient(value - surrogate)

    def _divergence(self, log_p, log_q, alpha):
        """Returns its value and a function with its gradient, for each image."""
        fixed_log_q = ops.stop_gradient(log_q)
        log_ratio = log_p - fixed_log_q
        if alpha == 1:
            # f(r) = r log r, where q r is p without an overflow
            p = ops.exp(log_p)
            return (
                ops.sum(p * log_ratio, axis=-1),
                -ops.sum(p * log_q, axis=-1),
            )
        # f(r) = (r^alpha - 1) / (alpha (alpha - 1))
        q = ops.exp(fixed_log_q)
        power = ops.minimum(ops.exp(alpha * log_ratio), self.clip)
        constant = 1 / (alpha * (alpha - 1))
        return (
            ops.sum(q * (power - 1) * constant, axis=-1),
            -ops.sum(q * power / alpha * log_q, axis=-1),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "alpha_min": self.alpha_min,
            "alpha_max": self.alpha_max,
            "clip": self.clip,
        }


def ensemble_logits(logits: Sequence, weights: Any) -> Any:
    """Returns `z_0 = sum_s alpha_s z_s` (RS-Net, equation 5).

    Gradients flow to the weights alone, not to the logits.

    Args:
        logits: S tensors of shape (..., classes).
        weights: Tensor of shape (S,), not negative, with a sum of 1.
    """
    # `ops.stack` would copy all logits and put the resolutions innermost.
    return sum(weights[i] * ops.stop_gradient(z) for i, z in enumerate(logits))


def distillation_loss(
    logits: Sequence,
    ensemble: Any,
    distillation: str = "full",
    sample_weight: Any = None,
    divergence: Callable | None = None,
) -> Any:
    """Computes multi-resolution ensemble distillation (RS-Net, section 3.3).

    Let p_0 be the prediction of the ensemble, p_1, ..., p_S the predictions at
    the resolutions, the largest first, and D the divergence of `Distillation`.
    The kinds of table 5 are

    - `"none"`: 0
    - `"vanilla"`: sum_s D(p_0 || p_s), equation 8
    - `"full"`: 2/(S+1) sum_{t=0}^{S-1} sum_{s=t+1}^{S} D(p_t || p_s),
      equation 10
    - `"no_ensemble"`: equation 10 without the terms of p_0
    - `"largest_only"`: sum_{s=2}^{S} D(p_1 || p_s)

    Args:
        logits: S tensors of shape (..., classes), the largest resolution first.
        ensemble: Logits of the ensemble, of the same shape.
        distillation: One of the kinds above.
        sample_weight: Optional weights of shape (...).
        divergence: D, a function of (teacher, student, sample weights); by default
            `Distillation()`.

    Raises:
        ValueError: For an unknown `distillation`.
    """
    if distillation not in DISTILLATIONS:
        raise ValueError(
            f"`distillation` must be one of {DISTILLATIONS}. "
            f"Received: distillation={distillation!r}"
        )
    count = len(logits)
    predictions = [ensemble, *logits]
    pairs = {
        "none": [],
        "vanilla": [(0, s) for s in range(1, count + 1)],
        "full": [(t, s) for s in range(1, count + 1) for t in range(s)],
        "no_ensemble": [(t, s) for s in range(1, count + 1) for t in range(1, s)],
        "largest_only": [(1, s) for s in range(2, count + 1)],
    }[distillation]
    if not pairs:
        return 0.0
    scale = 2 / (count + 1) if distillation in ("full", "no_ensemble") else 1.0
    divergence = Distillation() if divergence is None else divergence
    if type(divergence) is Distillation:
        of_all = _PairwiseDistillation(pairs, **divergence.get_config())
        return scale * of_all(ensemble, list(logits), sample_weight)
    return scale * sum(
        divergence(predictions[t], predictions[s], sample_weight) for t, s in pairs
    )
