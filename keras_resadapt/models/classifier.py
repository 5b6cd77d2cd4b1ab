"""What the classifiers of all families have in common."""

import dataclasses
import json
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from keras_resadapt import losses
from keras_resadapt.layers import LayerSet
from keras_resadapt.layers.batch_normalization import num_replicas
from keras_resadapt.points.noting import NotingPoint
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.profile import ProfileRow, profile_point, symbolic_call
from keras_resadapt.quantization.scheme import Scheme, check_quantized

# What a weights file calls the scheme of a quantized network
_SCHEME = "quantization"


class Classifier(keras.Model):
    """An image classifier that runs at a list of operating points.

    A family sets `operating_points` in its constructor and ends it with
    `build_from_point`; it defines `call(inputs, point, training)`, which gives
    the logits at one point for images and a point, and a dict of the logits
    of all points (and of what else it trains) for what `prepare_inputs` makes
    of a batch; and `loss_terms`. It makes its layers of what `layer_set`
    returns.

    Args:
        quantization: How its layers are quantized, such as
            `quantization.Int8()`; None for float weights and activations.
    """

    operating_points: tuple[OperatingPoint, ...]
    num_classes: int

    def __init__(self, quantization: Scheme | None = None, **kwargs):
        # Pixel values do not fit 16 bits: `Preprocessing` casts.
        super().__init__(autocast=False, **kwargs)
        if isinstance(quantization, dict):  # a configuration
            quantization = keras.saving.deserialize_keras_object(quantization)
        if not isinstance(quantization, Scheme | None):
            raise TypeError(
                "`quantization` must be a scheme, such as `keras_resadapt."
                f"quantization.Int8()`, or None. Received: {quantization!r}"
            )
        self.quantization = quantization
        self.classification_loss = losses.CrossEntropy()

    def build(self, input_shape=None):
        self.built = True

    def resolution_of(self, point: OperatingPoint) -> int:
        """Height and width in pixels of the images at a point."""
        return point.resolution or self.resolution

    def layer_set(self, layers: LayerSet = LayerSet(), private=None) -> LayerSet:
        """The layers to make the network of, quantized if it is.

        Args:
            layers: Those of the float network.
            private: As for `quantization.Scheme.layers`.
        """
        if self.quantization is None:
            return layers
        return self.quantization.layers(layers, private)

    def build_from_point(self, point: OperatingPoint) -> None:
        """Creates all variables by one symbolic pass."""
        size = self.resolution_of(point)
        if self.quantization is not None:
            point = NotingPoint(**dataclasses.asdict(point))
        symbolic_call(
            lambda images: self(images, point=point),
            keras.KerasTensor((1, size, size, 3)),
        )
        if self.quantization is not None:
            check_quantized(self)
            for layer in self._flatten_layers(include_self=False):
                if getattr(layer, "weight_quantizer", None) is not None:
                    layer.start_weight_quantizer()

    # === Inference ===

    def logits(self, images, point: OperatingPoint, training: bool = False):
        """One forward pass at an operating point, and nothing else.

        Args:
            images: Tensor of shape (batch, resolution, resolution, 3), in the
                range that `preprocessing` expects.
            point: Where to run.
            training: Use the statistics of the batch, and update the running
                ones.

        Returns:
            float32 logits of shape (batch, classes).
        """
        size = tuple(images.shape[1:3])
        if point.resolution is not None and any(
            s not in (None, point.resolution) for s in size
        ):
            raise ValueError(
                f"The operating point {point.name!r} takes images of "
                f"{point.resolution} x {point.resolution} pixels. "
                f"Received: {size[0]} x {size[1]}"
            )
        return self(images, point=point, training=training)

    def profile(
        self, points: Iterable[OperatingPoint] | None = None
    ) -> list[ProfileRow]:
        """Multiply-adds and parameters, a row an operating point.

        Args:
            points: The points to count; by default `operating_points`.
        """
        return [
            profile_point(
                # Costs the same, and needs no running statistics
                lambda x, p: self(x, point=p, training=True),
                (self.resolution_of(point),) * 2 + (3,),
                point,
            )
            for point in (self.operating_points if points is None else points)
        ]

    # === Quantization ===

    @property
    def scheme(self) -> Scheme | None:
        """How the network is quantized."""
        return self.quantization

    def get_config(self):
        return {
            **super().get_config(),
            "quantization": keras.saving.serialize_keras_object(self.quantization),
        }

    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self.scheme is not None:
            text = json.dumps(keras.saving.serialize_keras_object(self.scheme))
            store[_SCHEME] = np.frombuffer(text.encode(), "uint8")

    def load_own_variables(self, store):
        own = {name: store[name] for name in store.keys()}
        scheme = own.pop(_SCHEME, None)
        if scheme is not None:
            scheme = keras.saving.deserialize_keras_object(
                json.loads(bytes(scheme[...]).decode())
            )
        if scheme != self.scheme:
            raise ValueError(
                "The file holds the weights of a network with "
                f"quantization={scheme!r}, this one has "
                f"quantization={self.scheme!r}."
            )
        super().load_own_variables(own)

    # === Training ===

    def prepare_inputs(self, images):
        """What `call` takes in `fit` and `evaluate`, from a batch's images."""
        raise NotImplementedError

    def loss_terms(self, y, logits: dict, sample_weight=None) -> dict:
        """The named terms whose sum is the loss."""
        raise NotImplementedError

    @property
    def output_names(self) -> list[str]:
        """The names under which `evaluate` reports metrics."""
        return [point.name for point in self.operating_points]

    @output_names.setter
    def output_names(self, value):
        pass  # Keras sets it from the outputs' structure, which has no names.

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        metrics=None,
        weighted_metrics=None,
        jit_compile="auto",
        **kwargs,
    ):
        """Configures training; as `keras.Model.compile`, but for two things.

        Args:
            loss: The classification loss of one tensor of logits,
                `losses.CrossEntropy()` by default. The model adds the other
                terms of its method.
            metrics, weighted_metrics: A list; each is computed for every
                operating point, as `r224_accuracy`.
            jit_compile: `"auto"` compiles where it pays: not on a CPU with
                TensorFlow, where a step would be ten times slower.
        """
        loss = losses.CrossEntropy() if loss is None else loss
        if not isinstance(loss, keras.losses.Loss) or (
            loss.get_config().get("from_logits", True) is not True
        ):
            raise ValueError(
                "`loss` must be an instance of `keras.losses.Loss` that takes "
                "logits, such as `keras.losses.CategoricalCrossentropy("
                "from_logits=True)`, or None for the cross-entropy. "
                f"Received: loss={loss!r}"
            )
        self.classification_loss = loss
        self._asked_jit_compile = jit_compile
        if jit_compile == "auto" and _on_tensorflow_cpu():
            jit_compile = False
        super().compile(
            optimizer=optimizer,
            metrics=self._per_output(metrics),
            weighted_metrics=self._per_output(weighted_metrics),
            jit_compile=jit_compile,
            **kwargs,
        )
        accumulation = getattr(self.optimizer, "gradient_accumulation_steps", None)
        if accumulation and num_replicas() > 1:
            raise ValueError(
                "Keras cannot accumulate gradients over several replicas. "
                f"Received: gradient_accumulation_steps={accumulation} under "
                f"a strategy of {num_replicas()} replicas"
            )

    def _per_output(self, metrics):
        if metrics is None or isinstance(metrics, dict):
            return metrics

        def copy(metric):
            if not isinstance(metric, keras.metrics.Metric):
                return metric
            return keras.metrics.deserialize(keras.metrics.serialize(metric))

        metrics = metrics if isinstance(metrics, (list, tuple)) else [metrics]
        return {
            name: [copy(metric) for metric in metrics] for name in self.output_names
        }

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config["loss"] = keras.saving.serialize_keras_object(
                self.classification_loss
            )
            config["jit_compile"] = self._asked_jit_compile
        return config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force=False):
        if getattr(self.scheme, "packed", False):
            raise ValueError(
                f"{self.name!r} holds packed weights, which cannot be "
                "trained: train the network that it was packed from."
            )
        return super().make_train_function(force)

    def train_step(self, *args):
        *state, data = args  # JAX passes its state first
        return super().train_step(*state, self._prepare(data))

    def test_step(self, *args):
        *state, data = args
        return super().test_step(*state, self._prepare(data))

    def make_predict_function(self, force=False):
        """One compiled function a resolution.

        Keras would compile one for all shapes, in which the resolution, on
        which the pass depends, is unknown.
        """
        if keras.backend.backend() != "tensorflow":
            return super().make_predict_function(force)
        if self.predict_function is not None and not force:
            return self.predict_function
        import tensorflow as tf

        functions = {}

        def predict_function(data):
            images = tf.nest.flatten(data, expand_composites=True)
            key = tuple(tuple(x.shape[1:]) for x in images)
            if key not in functions:
                super(Classifier, self).make_predict_function(force=True)
                functions[key] = self.predict_function
                self.predict_function = predict_function
            return functions[key](data)

        self.predict_function = predict_function
        return predict_function

    def _prepare(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is None:
            raise ValueError("Training and evaluation need labels.")
        _check_labels(y, self.num_classes)
        return self.prepare_inputs(x), y, sample_weight

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        terms = self.loss_terms(y, self._named(y_pred), sample_weight)
        total = sum(terms.values())
        for loss in self.losses:  # of `add_loss` and regularizers
            total += ops.cast(self._aggregate_additional_loss(loss), "float32")
        return total

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y_pred = self._named(y_pred)
        labels = {name: y for name in y_pred}
        return super().compute_metrics(x, labels, y_pred, sample_weight)

    def get_metrics_result(self):
        results = super().get_metrics_result()
        if len(self.output_names) > 1:
            return results
        # Keras names the metrics of a single output without the output.
        (name,) = self.output_names
        return {
            key if key == "loss" else f"{name}_{key}": value
            for key, value in results.items()
        }

    def _named(self, y_pred):
        """Logits by name. Keras builds the metrics from a plain call of the
        model on a batch, which gives the logits of one point alone."""
        if isinstance(y_pred, dict):
            return y_pred
        return {name: y_pred for name in self.output_names}


def _on_tensorflow_cpu() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not (
        tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU")
    )


def _check_labels(y, num_classes):
    """Stops at a class index that the network does not have.

    Only TensorFlow can look at values inside a compiled step; elsewhere, and
    under XLA, the loss of such a label is NaN.
    """
    if keras.backend.backend() != "tensorflow" or len(y.shape) > 1:
        return
    import tensorflow as tf

    labels = tf.cast(y, tf.int64)
    message = f"Labels must be class indices from 0 to {num_classes - 1}."
    tf.debugging.assert_non_negative(labels, message)
    tf.debugging.assert_less(labels, tf.constant(num_classes, tf.int64), message)
