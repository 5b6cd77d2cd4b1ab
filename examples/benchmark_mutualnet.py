"""Measures the speed and the memory of a slimmable MobileNet.

    python examples/benchmark_mutualnet.py

The following take turns, and the medians are reported.

Training:
  step     a training step by the sandwich rule, with its update
  stock    the same four passes and the update in four stock Keras networks, each
           of one width and on images of its resolution
Inference:
  slim     a pass at a narrow operating point
  frozen   the same pass with constant weights
  stock    a pass of a stock Keras network of that width

Peak memory:
  sandwich   training steps with one sub-network after the other
  at_once    training steps that keep the activations of all sub-networks
"""

import statistics
import subprocess
import sys

import command_line  # first: it silences TensorFlow
import keras
import numpy as np
import shared_flags
import tensorflow as tf
from absl import flags
from tables import print_table

import keras_resadapt
from keras_resadapt import OperatingPoint, inference, layers, timing, training
from keras_resadapt.inference.running.frozen import freeze
from keras_resadapt.models.sandwich import sandwich_gradients
from keras_resadapt.points.operating_point import DrawnWidth

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch_size", 16, "Images per step.", lower_bound=1)
flags.DEFINE_integer("rounds", 11, "Timed steps.", lower_bound=1)
flags.DEFINE_list(
    "points",
    ["224x1", "192x0.7", "160x0.5", "128x0.25"],
    "Resolution and width of each sub-network of a step, the full network first.",
)
shared_flags.define_integers("batch_sizes", [1, 16], "Batch sizes of inference.")
flags.DEFINE_enum(
    "memory", None, ["sandwich", "at_once"], "Internal: what this process measures."
)


def points():
    """Returns pairs (width, resolution)."""
    pairs = (point.split("x") for point in FLAGS.points)
    return [(float(width), int(resolution)) for resolution, width in pairs]


def stock_mobilenet(width, resolution):
    """Builds a MobileNet of stock Keras layers, as wide as ours at this width."""

    def channels(filters):
        return layers.slim_channels(filters, width)

    x = inputs = keras.Input((resolution, resolution, 3))

    def norm(x):
        x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
        return keras.layers.ReLU(6)(x)

    def conv(x, filters, size, stride):
        return norm(
            keras.layers.Conv2D(
                channels(filters), size, stride, "same", use_bias=False
            )(x)
        )

    x = conv(x, 32, 3, 2)
    for i, (depth, filters) in enumerate(
        zip((1, 2, 2, 6, 2), (64, 128, 256, 512, 1024))
    ):
        for j in range(depth):
            stride = 2 if i and j == 0 else 1
            x = norm(keras.layers.DepthwiseConv2D(3, stride, "same", use_bias=False)(x))
            x = conv(x, filters, 1, 1)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(1000)(x))


def our_step():
    """Returns the network, its step, and a step that keeps all activations."""
    (_, size), *rest = points()
    model = keras_resadapt.MutualMobileNetV1(preprocessing=None)
    model.compile(training.MUTUALNET.optimizer(100, FLAGS.batch_size))
    model.optimizer.build(model.trainable_variables)
    images, labels = batch(size)
    # The smallest width is constant, all others are drawn in the step.
    rest = sorted(rest)
    sub_networks = [
        (
            w if i == 0 else DrawnWidth(tf.Variable(w, dtype="float64")),
            tf.Variable(r),
        )
        for i, (w, r) in enumerate(rest)
    ]

    @tf.function(autograph=False)
    def step():
        loss, _, gradients = sandwich_gradients(
            model,
            images,
            labels,
            None,
            [(OperatingPoint(width=w), r) for w, r in sub_networks],
        )
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    @tf.function(autograph=False)
    def at_once():
        with tf.GradientTape() as tape:
            full = model(images, point=model.full_point, training=True)
            loss = model.classification_loss(labels, full)
            for w, r in sub_networks:
                logits = model(
                    layers.resize_to_corners(images, (r, r)),
                    point=OperatingPoint(width=w),
                    training=True,
                )
                loss += model.divergence(full, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    return model, step, at_once


def batch(size):
    """Returns random images and labels."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (FLAGS.batch_size, size, size, 3))
    labels = rng.integers(0, 1000, FLAGS.batch_size)
    return tf.constant(images, tf.float32), tf.constant(labels)


def stock_passes():
    """Returns functions that each run one forward and one backward pass."""
    passes = []
    for i, (width, size) in enumerate(points()):
        model = stock_mobilenet(width, size)
        optimizer = keras.optimizers.SGD(0.1, 0.9, nesterov=True)
        optimizer.build(model.trainable_variables)
        images, labels = batch(size)
        loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        @tf.function(autograph=False)
        def one(
            model=model,
            optimizer=optimizer,
            images=images,
            labels=labels,
            loss_of=loss_of,
            update=i == 0,
        ):
            with tf.GradientTape() as tape:
                loss = loss_of(labels, model(images, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            if update:
                optimizer.apply_gradients(zip(gradients, model.trainable_variables))
                return loss
            return [loss, *gradients]

        passes.append(one)
    return passes


def take_turns(contestants, rounds):
    """Returns the milliseconds of each contestant, a list of rounds by name."""

    def waiting(run):
        return lambda: tf.nest.map_structure(lambda x: x.numpy(), run())

    functions = {name: waiting(run) for name, run in contestants.items()}
    return timing.time_in_turns(functions, rounds)


def ratio(times, name, other):
    """Returns the median ratio of the times of two contestants."""
    return statistics.median(a / b for a, b in zip(times[name], times[other]))


def measure_memory():
    """Takes three steps, and prints the peak memory of this process in GB."""
    _, step, at_once = our_step()
    run = step if FLAGS.memory == "sandwich" else at_once
    for _ in range(3):
        run().numpy()
    # Not `getrusage`, which includes the peak of the parent process
    with open("/proc/self/status") as file:
        (peak,) = [line for line in file if line.startswith("VmHWM")]
    print(f"{int(peak.split()[1]) / 1e6:.2f}")


def benchmark_step(model, step):
    """Measures the training step against stock Keras networks."""
    passes = stock_passes()
    times = take_turns(
        {"step": step, "stock": lambda: [one() for one in passes]},
        FLAGS.rounds,
    )
    print_table(
        ["training", "median ms", "ratio to stock"],
        [
            [name, f"{statistics.median(ms):.0f}", f"{ratio(times, name, 'stock'):.2f}"]
            for name, ms in times.items()
        ],
    )


def benchmark_inference(model):
    """Measures passes at the narrow points against stock Keras networks."""
    rows = []
    for width, size in points()[1:]:
        point = OperatingPoint(size, width)
        images = tf.constant(np.zeros((32, size, size, 3), "float32"))
        inference.calibrate_batch_norm(
            model, [(images, np.zeros(32, int))], [point], verbose=False
        )
        stock = stock_mobilenet(width, size)
        for count in FLAGS.batch_sizes:
            images = tf.random.uniform((count, size, size, 3))
            spec = tf.TensorSpec(images.shape)
            slim = tf.function(lambda x: model.logits(x, point), [spec])
            frozen = freeze(lambda x: model.logits(x, point), [spec])
            plain = tf.function(lambda x: stock(x, training=False), [spec])
            times = take_turns(
                {
                    "slim": lambda: slim(images),
                    "frozen": lambda: frozen(images),
                    "stock": lambda: plain(images),
                },
                5 * FLAGS.rounds,
            )
            rows.append(
                [
                    f"{point.name}, batch size {count}",
                    *(f"{statistics.median(ms):.2f}" for ms in times.values()),
                    f"{ratio(times, 'slim', 'stock'):.2f}",
                    f"{ratio(times, 'frozen', 'stock'):.2f}",
                ]
            )
    print_table(
        ["inference", "slim, ms", "frozen, ms", "stock, ms", "slim / stock"]
        + ["frozen / stock"],
        rows,
    )


def benchmark_memory():
    """Measures the peak memory of two ways to train, each in its own process."""
    rows = []
    for kind in ("sandwich", "at_once"):
        result = subprocess.run(
            [sys.executable, *sys.argv, f"--memory={kind}"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows.append([kind, result.stdout.strip()])
    print_table(["training", "peak memory (GB)"], rows)


def main():
    if FLAGS.memory:
        measure_memory()
        return
    model, step, _ = our_step()
    benchmark_step(model, step)
    benchmark_inference(model)
    benchmark_memory()


if __name__ == "__main__":
    command_line.run(main)
