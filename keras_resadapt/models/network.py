"""The root model: a network that runs at a list of operating points."""

import functools
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_resadapt.backend import on_tensorflow_cpu, on_tpu
from keras_resadapt.layers import LayerSet
from keras_resadapt.layers.arguments import with_plain_arguments
from keras_resadapt.layers.replicas import in_replica, num_replicas, spans_workers
from keras_resadapt.models.identity import read_identity, write_identity
from keras_resadapt.models.metrics import metrics_per_output
from keras_resadapt.models.whole_images import (
    WholeImages,
    check_workers_have_joined,
)
from keras_resadapt.points import NotingPoint, OperatingPoint
from keras_resadapt.points.recording import symbolic_call
from keras_resadapt.profile import ProfileRow, profile_point
from keras_resadapt.quantization.scheme import Scheme, check_quantized
from keras_resadapt.tasks import Task
from keras_resadapt.training.data_parallel import copying_batches, split_over_devices
from keras_resadapt.training.workers import (
    is_chief,
    run_on_all,
    run_outside_scope,
)


class Network(WholeImages, keras.Model):
    """A network that runs at a list of operating points and serves one task.

    It holds what all families share: building, profile, quantization, saving,
    compiling, metrics for each operating point and prediction. What depends on the
    meaning of the outputs belongs to the `Task`.

    A family sets `operating_points` in its constructor and ends it with
    `build_from_point`. It defines

    - `call(inputs, point, training)`: the outputs at one point for images and a
      point; a dict of the aligned outputs of all points that it trains for what
      `prepare_inputs` makes of a batch of images, or for a dict of these, under
      `"images"`, and the `"targets"`, if these have a size;
    - `loss_terms`, the named terms of its loss.

    It makes its layers of what `layer_set` returns.

    Args:
        task: The task.
        quantization: How the layers are quantized, such as `quantization.Int8()`;
            None for float weights and activations.

    Attributes:
        operating_points: The points at which the network runs.
        task: The task.
    """

    operating_points: tuple[OperatingPoint, ...]
    task: Task

    def __init_subclass__(cls, **kwargs):
        """Prepares the arguments of every family's constructor.

        `dtype`, the policy of a network, becomes that of all its layers, and
        NumPy's numbers become Python's, which configurations can hold.
        """
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = with_plain_arguments(_under_own_policy(cls.__init__))

    def __init__(self, task: Task, quantization: Scheme | None = None, **kwargs):
        # Pixel values do not fit 16 bits: `Preprocessing` casts.
        super().__init__(autocast=False, **kwargs)
        if isinstance(quantization, dict):  # a configuration
            quantization = keras.saving.deserialize_keras_object(quantization)
        if not isinstance(quantization, Scheme | None):
            raise TypeError(
                "`quantization` must be a scheme, such as `keras_resadapt."
                f"quantization.Int8()`, or None. Received: {quantization!r}"
            )
        self.task = task
        self.quantization = quantization
        self.task_loss = task.make_loss()
        # Ranks of the data that the training and the test step were traced for
        self._ranks = {}

    def build(self, input_shape=None):
        self.built = True

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the task; None for a task without classes."""
        return self.task.num_classes

    @property
    def headline_point(self) -> OperatingPoint:
        """The point whose metrics are also reported under their plain names."""
        return self.operating_points[0]

    def resolution_of(self, point: OperatingPoint) -> int:
        """Returns height and width in pixels of the images at a point."""
        return point.resolution or self.resolution  # type: ignore[return-value]

    def image_size_of(self, point: OperatingPoint) -> tuple[int, int]:
        """Returns height and width in pixels by which the cost of a point is counted.

        They are the resolution of the point, except for a task with another rule.
        """
        return self.task.image_size(self.resolution_of(point))

    def layer_set(self, layers: LayerSet = LayerSet(), private=None) -> LayerSet:
        """Returns the constructors of the network's layers, quantized if it is.

        Args:
            layers: Those of the float network.
            private: As for `quantization.Scheme.layers`.
        """
        if self.quantization is None:
            return layers
        return self.quantization.layers(layers, private)

    def build_from_point(self, point: OperatingPoint) -> None:
        """Creates all variables by one symbolic pass."""
        size = self.image_size_of(point)
        if self.quantization is not None:
            point = point.interpreted_by(NotingPoint)
        with keras.name_scope(self.name):
            symbolic_call(
                lambda images: self.call(images, point=point),
                keras.KerasTensor((1, *size, 3)),
            )
        self.built = True
        if self.quantization is not None:
            check_quantized(self)
            for layer in self._flatten_layers(include_self=False):
                if getattr(layer, "weight_quantizer", None) is not None:
                    layer.start_weight_quantizer()

    # === Points ===

    def check_point(self, point: OperatingPoint) -> None:
        """Raises a `ValueError` unless the network can run at a point."""
        raise NotImplementedError

    def point_of(self, point: OperatingPoint | str) -> OperatingPoint:
        """Returns an operating point that the network can run at.

        Args:
            point: The point, or the name of one of `operating_points`.

        Raises:
            TypeError: Neither of these.
            ValueError: A point that the network does not have.
        """
        if isinstance(point, str):
            named = {known.name: known for known in self.operating_points}
            if point not in named:
                raise ValueError(
                    "`point` must be an `OperatingPoint` or the name of one of "
                    f"{list(named)}. Received: point={point!r}"
                )
            return named[point]
        if not isinstance(point, OperatingPoint):
            raise TypeError(
                "`point` must be an `OperatingPoint`, such as "
                f"{self.operating_points[0]}. Received: point={point!r}"
            )
        self.check_point(point)
        return point

    def points_to_calibrate(self, points=None) -> list[OperatingPoint]:
        """Returns the points at which a calibration runs the network.

        Args:
            points: What the user asked for: points, one point, or None for all.
        """
        if isinstance(points, OperatingPoint):
            points = [points]
        points = list(self.operating_points if points is None else points)
        if not points:
            raise ValueError("`points` must name at least one operating point.")
        return [self.point_of(point) for point in points]

    # === Inference ===

    def logits(self, images, point: OperatingPoint | str, training: bool = False):
        """Runs one forward pass at an operating point, and nothing else.

        Args:
            images: Tensor of shape (batch, resolution, resolution, 3), in the range
                that `preprocessing` expects.
            point: The operating point, or its name.
            training: Use the statistics of the batch, and update the running ones.

        Returns:
            The outputs of the task: for classification, float32 logits of shape
            (batch, classes).
        """
        point = self.point_of(point)
        self.check_size(images, point)
        return self(images, point=point, training=training)

    def check_size(self, images, point: OperatingPoint) -> None:
        """Raises a `ValueError` for images that do not fit a point."""
        size = tuple(images.shape[1:3])
        square = size[0] == size[1] or not self.task.any_shape
        if (
            point.resolution is not None
            and square
            and not self.task.padded
            and any(s not in (None, point.resolution) for s in size)
        ):
            raise ValueError(
                f"The operating point {point.name!r} takes images of "
                f"{point.resolution} x {point.resolution} pixels. "
                f"Received: {size[0]} x {size[1]}"
            )

    def profile(
        self, points: Iterable[OperatingPoint] | None = None
    ) -> list[ProfileRow]:
        """Counts multiply-adds and parameters, one row per operating point.

        Args:
            points: The points to count; by default `operating_points`.
        """
        points = self.operating_points if points is None else points
        return [
            profile_point(
                # Training costs the same, and needs no running statistics.
                lambda x, p: self.call(x, point=p, training=True),
                (*self.image_size_of(point), 3),
                point,
            )
            for point in map(self.point_of, points)
        ]

    # === Quantization and saving ===

    @property
    def scheme(self) -> Scheme | None:
        """How the network is quantized."""
        return self.quantization

    def inner_network(self) -> "Network":
        """Returns the network whose layers run, which a wrapper delegates to."""
        return self

    def rebuilt(self, change) -> "Network":
        """Returns what `change` makes of the network whose layers can be quantized.

        Args:
            change: A function from a network to a changed copy of it.
        """
        return change(self)

    def quantize(self, *args, **kwargs):
        raise ValueError(
            "Keras cannot quantize these layers. Use "
            "`keras_resadapt.quantization.quantize(model, Int8())`."
        )

    def identity(self) -> dict[str, Any]:
        """Returns what a weights file must share with the network, by argument."""
        return {
            "quantization": keras.saving.serialize_keras_object(self.scheme),
        }

    def save_own_variables(self, store):
        super().save_own_variables(store)
        write_identity(store, self.identity())

    def load_own_variables(self, store):
        super().load_own_variables(read_identity(store, self.identity()))

    def get_config(self):
        return {
            **super().get_config(),
            "quantization": keras.saving.serialize_keras_object(self.quantization),
        }

    # === Training ===

    def prepare_inputs(self, images):
        """Returns what `call` takes in `fit` and `evaluate`, from images."""
        raise NotImplementedError

    def loss_terms(self, y, outputs: dict, sample_weight=None) -> dict:
        """Returns the named terms whose sum is the loss."""
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
        loss_weights=None,
        **kwargs,
    ):
        """Configures training as `keras.Model.compile` does, with two differences.

        Args:
            optimizer: As for `keras.Model.compile`.
            loss: The loss of the outputs of one operating point, by default the
                task's. The network adds the other terms of its method.
            metrics, weighted_metrics: A list. Each metric is computed for every
                operating point, such as `r224_accuracy`, and reported for the
                headline point as `accuracy` too. An instance counts for the
                headline point, and is copied for the others; a metric that cannot
                be copied is passed as its class or as a function without arguments
                that returns a new one.
            jit_compile: `"auto"` compiles where that is faster, so not on a CPU
                with TensorFlow, where a step would be ten times slower. XLA cannot
                compile detection, for which True raises an error.
            loss_weights: Not supported.

        Raises:
            ValueError: An argument that cannot work.
        """
        if loss_weights is not None:
            raise ValueError(
                "`loss_weights` must be None: the terms of a network's loss have the "
                "weights of its paper. Weigh images with `sample_weight` or "
                f"`class_weight`. Received: loss_weights={loss_weights!r}"
            )
        self.task_loss = self.task.make_loss(loss)
        self._asked_jit_compile = jit_compile
        if spans_workers():
            if self.task.make_scorer() is not None:
                check_workers_have_joined(self.distribute_strategy)
            _check_steps_per_execution(kwargs.get("steps_per_execution", 1))
        jit_compile = self._without_xla(jit_compile)
        super().compile(
            optimizer=optimizer,
            metrics=self._per_output(metrics),
            weighted_metrics=weighted_metrics and self._per_output(weighted_metrics),
            jit_compile=jit_compile,
            **kwargs,
        )
        shape = self.task.metric_shape
        if shape is not None and self._compile_metrics is not None:
            # Keras would build them from the outputs of inference.
            outputs = {name: keras.KerasTensor(shape) for name in self.output_names}
            self._compile_metrics.build(outputs, outputs)
        accumulation = getattr(self.optimizer, "gradient_accumulation_steps", None)
        if accumulation and num_replicas() > 1:
            raise ValueError(
                "Keras cannot accumulate gradients over several replicas. "
                f"Received: gradient_accumulation_steps={accumulation} under "
                f"a strategy of {num_replicas()} replicas"
            )

    def _without_xla(self, jit_compile):
        """Returns the `jit_compile` of Keras, or raises a `ValueError`."""
        if not self.task.compiles and (jit_compile is True or on_tpu()):
            raise ValueError(
                "`jit_compile` must be False or 'auto' for a network with the task "
                f"{type(self.task).__name__}, which XLA cannot compile, and a TPU "
                f"cannot run. Received: jit_compile={jit_compile!r}"
            )
        several = num_replicas() > 1 and not on_tpu()
        if jit_compile is True and several:
            raise ValueError(
                "`jit_compile` must be False or 'auto' over several replicas: XLA "
                "compiles a step for one device. Received: jit_compile=True under a "
                f"strategy of {num_replicas()} replicas"
            )
        slower = on_tensorflow_cpu() or several or not self.task.compiles
        return False if jit_compile == "auto" and slower else jit_compile

    def _per_output(self, metrics):
        return metrics_per_output(
            metrics, self.task, self.output_names, self.headline_point.name
        )

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config["loss"] = keras.saving.serialize_keras_object(self.task_loss)
            config["jit_compile"] = self._asked_jit_compile
        return config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=None,
        **kwargs,
    ):
        """Trains as `keras.Model.fit` does.

        Args:
            x, y: Images and targets; or batches of both as a `tf.data.Dataset`.
            shuffle: By default, arrays are shuffled and data sets are not.
            batch_size, epochs, verbose, callbacks, validation_split,
                validation_data, **kwargs: As for `keras.Model.fit`.

        Raises:
            ValueError: A batch size that the replicas of a strategy do not divide, or
                a callback that cannot work over several workers.
        """
        self._check_batch_size(x, batch_size)
        if spans_workers(getattr(self, "distribute_strategy", None)):
            run_on_all(lambda: _check_callbacks(callbacks))
        weights = kwargs.get("sample_weight")
        self._drop_step_of_other_ranks("train_function", x, y, weights)
        # Keras warns of shuffling a data set, which it does not do.
        shuffle = y is not None if shuffle is None else shuffle
        with copying_batches(x):
            return super().fit(
                x,
                y,
                batch_size,
                epochs,
                verbose,
                callbacks,
                validation_split,
                validation_data,
                shuffle,
                **kwargs,
            )

    def save(self, filepath, *args, **kwargs):
        """Saves as `keras.Model.save` does.

        Every worker that calls it saves its own copy. Usually only the chief does; see
        `training.is_chief`.
        """
        if not spans_workers():
            return super().save(filepath, *args, **kwargs)
        save = functools.partial(super().save, filepath, *args, **kwargs)
        return run_outside_scope(save).result()

    def evaluate(self, x=None, *args, **kwargs):
        """Evaluates as `keras.Model.evaluate` does.

        For a task that scores whole data sets outside of graphs, such as detection,
        `x` is a data set of images and targets, and the result has the scores of
        every operating point instead of a loss; see `score_points`.
        """
        if self.task.make_scorer() is not None:
            return self.evaluate_scores(x, *args, **kwargs)
        named = dict(
            zip(("y", "batch_size", "verbose", "sample_weight"), args), **kwargs
        )
        targets = named.get("y"), named.get("sample_weight")
        self._drop_step_of_other_ranks("test_function", x, *targets)
        with copying_batches(x):
            return super().evaluate(x, *args, **kwargs)

    def _drop_step_of_other_ranks(self, name: str, *data) -> None:
        """Drops a compiled step that was traced for data of other ranks.

        TensorFlow would trace it anew for tensors of unknown rank, which serve both.

        Args:
            name: The attribute that holds the step.
            *data: A data set; or images, targets and weights.
        """
        leaves = keras.tree.flatten(getattr(data[0], "element_spec", data))
        shapes = [leaf.shape for leaf in leaves if hasattr(leaf, "shape")]
        ranks = [s.rank if hasattr(s, "rank") else len(s) for s in shapes]
        if not ranks:  # of a generator
            return
        if self._ranks.get(name, ranks) != ranks:
            setattr(self, name, None)
        self._ranks[name] = ranks

    def _check_batch_size(self, x, batch_size: int | None) -> None:
        """Raises a `ValueError` for a batch size that replicas do not divide.

        A loss is the mean over the replicas of the means of their shares, in which
        images of smaller shares would count for more.
        """
        if keras.backend.backend() != "tensorflow":
            return
        replicas = self.distribute_strategy.num_replicas_in_sync
        import tensorflow as tf

        if isinstance(x, tf.data.Dataset):
            # Unknown where the last batch may be smaller
            batch_size = keras.tree.flatten(x.element_spec)[0].shape[0]
        elif hasattr(x, "shape") or isinstance(x, (list, tuple)):
            batch_size = batch_size or 32
        if batch_size and batch_size % replicas:
            raise ValueError(
                "The batch size must be a multiple of the number of replicas. "
                f"Received: batch_size={batch_size} for {replicas} replicas"
            )

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds the metrics, and under a strategy the optimizer, from shapes.

        TensorFlow traces a step a second time if the first trace created variables.
        Keras takes a batch from the data, which under a strategy it averages over the
        replicas; several workers cannot do that.
        """
        on_tensorflow = keras.backend.backend() == "tensorflow"
        one_replica = (
            on_tensorflow and self.distribute_strategy.num_replicas_in_sync == 1
        )
        if not on_tensorflow or (iterator is None and not one_replica):
            super()._maybe_symbolic_build(iterator, data_batch)
            return
        metrics = self._compile_metrics
        if one_replica and (metrics is None or metrics.built):
            return  # without making the data set again
        if iterator is not None:
            data_batch = keras.tree.map_structure(
                # A distributed data set has one spec per local replica.
                lambda part: getattr(part, "_value_specs", (part,))[0],
                iterator.data_adapter.get_tf_dataset().element_spec,
            )
        with self.distribute_strategy.scope():
            if one_replica:
                self._build_metrics(*keras.utils.unpack_x_y_sample_weight(data_batch))
            else:
                self._symbolic_build(data_batch=data_batch)

    def _build_metrics(self, x, y, sample_weight=None) -> None:
        """Creates the metrics that were passed by name, which depend on shapes."""
        if not hasattr(y, "shape"):
            return
        x, y = keras.tree.map_structure(
            lambda v: keras.KerasTensor(
                v.shape, keras.backend.standardize_dtype(v.dtype)
            ),
            (x, y),
        )
        try:
            outputs = self.compute_output_spec(x)
            if not isinstance(outputs, dict):
                outputs = {name: outputs for name in self.output_names}
            self._compile_metrics.build({name: y for name in outputs}, outputs)
        except Exception:
            # Images of unknown size: the step is traced twice. Or wrong data: the
            # step raises the error.
            return

    def make_train_function(self, force=False):
        if getattr(self.scheme, "packed", False):
            raise ValueError(
                f"{self.name!r} holds packed weights, which cannot be "
                "trained: train the network that it was packed from."
            )
        unbuilt = self.optimizer is not None and not self.optimizer.built
        if unbuilt and keras.backend.backend() == "tensorflow":
            with self.distribute_strategy.scope():  # before the step is traced
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, *args):
        *state, data = args  # JAX passes its state first
        return super().train_step(*state, self._prepare(data, training=True))

    def test_step(self, *args):
        *state, data = args
        return super().test_step(*state, self._prepare(data))

    def _prepare(self, data, training: bool = False):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = split_over_devices(x)
        if isinstance(x, dict):
            raise ValueError(
                "Images must be a tensor, or a tuple with one tensor per resolution: "
                "map the data set to pairs (images, targets). Received: a dict with "
                f"the keys {sorted(x)}"
            )
        if y is None:
            raise ValueError("Training and evaluation need labels.")
        self.task.check_targets(y)
        if training:
            self._check_target_size(x, y)
        if sample_weight is not None:
            sample_weight = _flat_weights(sample_weight)
        inputs = self.prepare_inputs(x)
        # `call` aligns outputs to the size of the targets, or compares with them.
        if self.task.takes_targets or self.task.target_size(y) is not None:
            inputs = {"images": inputs, "targets": y}
        return inputs, y, sample_weight

    def _check_target_size(self, x, y) -> None:
        """Raises a `ValueError` for targets of another size than their images."""
        if isinstance(x, (list, tuple)):
            x = x[0]
        size = self.task.target_size(y)
        expected = tuple(x.shape[1:3])
        if size is not None and any(
            isinstance(s, int) and e is not None and s != e
            for s, e in zip(size, expected)
        ):
            raise ValueError(
                "`fit` takes targets of the size of their images, "
                f"{expected[0]} x {expected[1]} pixels. "
                f"Received: targets of {size[0]} x {size[1]} pixels"
            )

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if self.task_loss is None:
            raise ValueError(
                f"{self.task} has no loss of its own: pass `loss` to `compile`."
            )
        terms = self.loss_terms(y, self._named(y, y_pred), sample_weight)
        total = sum(terms.values())
        for loss in self.losses:  # of `add_loss` and regularizers
            total += ops.cast(self._aggregate_additional_loss(loss), "float32")
        return total

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y_pred = self._named(y, y_pred)
        targets = {}
        for name, outputs in y_pred.items():
            compared = self.task.metric_inputs(y, outputs, sample_weight)
            targets[name], y_pred[name] = compared
        return super().compute_metrics(x, targets, y_pred, sample_weight)

    def get_metrics_result(self):
        results = self._metrics_by_name()
        if in_replica() and spans_workers():
            # Keras averages what the replicas of several workers return over their
            # first axis.
            return {name: ops.reshape(value, (1,)) for name, value in results.items()}
        return results

    def _metrics_by_name(self) -> dict:
        results = self._flat_results(super().get_metrics_result())
        if len(self.output_names) == 1:
            # Keras names the metrics of a single output without the output.
            (name,) = self.output_names
            results |= {
                f"{name}_{key}": value
                for key, value in results.items()
                if key != "loss"
            }
            return results
        prefix = f"{self.headline_point.name}_"
        headline = {
            key.removeprefix(prefix): value
            for key, value in results.items()
            if key.startswith(prefix)
        }
        return headline | results

    def _flat_results(self, results: dict) -> dict:
        """Returns results with those of metrics of several values by their names."""
        flat = {}
        for key, value in results.items():
            if not isinstance(value, dict):
                flat[key] = value
                continue
            outputs = (f"{name}_" for name in self.output_names)
            prefix = next((o for o in outputs if key.startswith(o)), "")
            flat |= {f"{prefix}{name}": score for name, score in value.items()}
        return flat

    def _named(self, y, y_pred):
        """Returns aligned outputs by name.

        Keras builds the metrics from a plain call of the model on a batch, which
        returns the outputs of one point alone.
        """
        if isinstance(y_pred, dict) and set(y_pred) >= set(self.output_names):
            return y_pred
        size = self.task.target_size(y)
        if size is not None:
            y_pred = self.task.align(y_pred, size)
        return {name: y_pred for name in self.output_names}

    # === Prediction ===

    def predict(self, x, *args, **kwargs):
        """Predicts as `keras.Model.predict` does, for at least one image."""
        if hasattr(x, "shape") and x.shape and x.shape[0] == 0:
            raise ValueError(
                f"`x` must hold at least one image. Received: shape {tuple(x.shape)}"
            )
        with copying_batches(x):
            return super().predict(x, *args, **kwargs)

    def predict_step(self, *args):
        *state, data = args
        return super().predict_step(*state, split_over_devices(data))

    def make_predict_function(self, force=False):
        """Returns a function that compiles one graph per resolution.

        Keras would compile one graph for all shapes, in which the resolution, on
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
                super(Network, self).make_predict_function(force=True)
                functions[key] = self.predict_function
                self.predict_function = predict_function
            return functions[key](data)

        self.predict_function = predict_function
        return predict_function

    def __call__(self, inputs, *args, **kwargs):
        if num_replicas() == 1 or kwargs.get("training"):
            return super().__call__(inputs, *args, **kwargs)
        # The last batch can leave a replica without images, over which oneDNN's
        # convolutions fail (TensorFlow 2.21): one row is added, and cut off.
        rows = ops.shape(keras.tree.flatten(inputs)[0])[0]
        missing = ops.cast(rows == 0, "int32")
        padded = keras.tree.map_structure(
            lambda x: ops.pad(x, [(0, missing)] + [(0, 0)] * (len(x.shape) - 1)),
            inputs,
        )
        outputs = super().__call__(padded, *args, **kwargs)
        return keras.tree.map_structure(lambda y: y[:rows], outputs)


def _check_steps_per_execution(steps_per_execution: int) -> None:
    """Raises a `ValueError` for steps that several workers cannot join."""
    if steps_per_execution != 1:
        raise ValueError(
            "`steps_per_execution` must be 1 over several workers. "
            f"Received: steps_per_execution={steps_per_execution}"
        )


def _check_callbacks(callbacks) -> None:
    """Raises a `ValueError` for a callback that cannot work over several workers."""
    for callback in callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ValueError(
                "`callbacks` must not have `BackupAndRestore` over several workers, "
                "all of which would write one file. `training.Checkpoint` saves and "
                f"resumes a training. Received: callbacks={callbacks!r}"
            )
        if isinstance(callback, keras.callbacks.ModelCheckpoint) and not is_chief():
            raise ValueError(
                "`callbacks` must have `ModelCheckpoint` on the chief alone, because "
                "all workers would write one file; see `training.is_chief`. "
                f"Received: callbacks={callbacks!r}"
            )


def _under_own_policy(init):
    """Wraps a constructor so that its layers get the network's dtype policy."""

    @functools.wraps(init)
    def with_policy(self, *args, **kwargs):
        policy = kwargs.get("dtype")
        if policy is None:
            return init(self, *args, **kwargs)
        if isinstance(policy, dict):  # a configuration
            policy = keras.dtype_policies.deserialize(policy)
        default = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            return init(self, *args, **kwargs)
        finally:
            keras.config.set_dtype_policy(default)

    return with_policy


def _flat_weights(sample_weight):
    """Returns weights of shape (batch,) where they came as (batch, 1)."""
    if len(sample_weight.shape) == 2 and sample_weight.shape[1] == 1:
        return ops.squeeze(sample_weight, axis=1)
    return sample_weight
