"""Speed and memory of a slimmable MobileNet.

    python examples/benchmark_mutualnet.py

In turns, medians:
  step           the sandwich of a training step, with its update
  stock          its four passes and the update in four stock Keras networks,
                 each of one width, from images of its resolution
  slim_R_W       a pass at a narrow point; `frozen`: with constant weights
  stock_R_W      the same of a stock Keras network of that width
Beside it, the peak memory of a process that takes steps with one sub-network
after the other, and of one that keeps the activations of all four.
"""

import os
import statistics
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import OperatingPoint, inference, layers, training
from keras_resadapt.inference.running.frozen import freeze
from keras_resadapt.models.sandwich import sandwich_gradients
from keras_resadapt.points.operating_point import DrawnWidth

FLAGS = flags.FLAGS
flags.DEFINE_integer("batch_size", 16, "Pictures a step.")
flags.DEFINE_integer("rounds", 11, "Timed steps.")
flags.DEFINE_list(
    "points",
    ["224x1", "192x0.7", "160x0.5", "128x0.25"],
    "Resolution and width of the step's sub-networks, the full one first.",
)
flags.DEFINE_list("batch_sizes", ["1", "16"], "Of the narrow passes.")
flags.DEFINE_enum("memory", None, ["sandwich", "at_once"], "Internal: measure this.")


def points():
    """Pairs (width, resolution)."""
    pairs = (point.split("x") for point in FLAGS.points)
    return [(float(width), int(resolution)) for resolution, width in pairs]


def stock_mobilenet(width, resolution):
    """MobileNet from stock Keras layers, as wide as ours at this width."""

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
    """The step, and the one that keeps everything alive."""
    (_, size), *rest = points()
    model = keras_resadapt.MutualMobileNetV1(preprocessing=None)
    model.compile(training.MUTUALNET.optimizer(100, FLAGS.batch_size))
    model.optimizer.build(model.trainable_variables)
    images, labels = batch(size)
    # The first is always the smallest, the others are drawn.
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
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (FLAGS.batch_size, size, size, 3))
    labels = rng.integers(0, 1000, FLAGS.batch_size)
    return tf.constant(images, tf.float32), tf.constant(labels)


def stock_passes():
    """Functions that each run one pass forward and back."""
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
    """Seconds of each, by name, a list of rounds."""
    for run in contestants.values():
        run()
        run()
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            tf.nest.map_structure(lambda x: x.numpy(), run())
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times, name, other):
    return statistics.median(a / b for a, b in zip(times[name], times[other]))


def measure_memory():
    _, step, at_once = our_step()
    run = step if FLAGS.memory == "sandwich" else at_once
    for _ in range(3):
        run().numpy()
    # Not `getrusage`, which remembers the parent's peak
    with open("/proc/self/status") as file:
        (peak,) = [line for line in file if line.startswith("VmHWM")]
    print(f"peak {int(peak.split()[1]) / 1e6:.2f} GB")


def main(_):
    if FLAGS.memory:
        return measure_memory()
    model, step, _ = our_step()
    passes = stock_passes()
    times = take_turns(
        {"step": step, "stock": lambda: [one() for one in passes]},
        FLAGS.rounds,
    )
    for name, values in times.items():
        print(f"{name:12}{1e3 * statistics.median(values):10.0f} ms")
    print(f"step / stock: {ratio(times, 'step', 'stock'):.2f}", flush=True)

    for width, size in points()[1:]:
        point = OperatingPoint(size, width)
        images = tf.constant(np.zeros((32, size, size, 3), "float32"))
        inference.calibrate_batch_norm(
            model, [(images, np.zeros(32, int))], [point], verbose=False
        )
        stock = stock_mobilenet(width, size)
        for count in map(int, FLAGS.batch_sizes):
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
            medians = "  ".join(
                f"{name} {1e3 * statistics.median(values):.2f} ms"
                for name, values in times.items()
            )
            print(
                f"{point.name}, batch {count}: {medians}  slim / stock: "
                f"{ratio(times, 'slim', 'stock'):.2f}, frozen / stock: "
                f"{ratio(times, 'frozen', 'stock'):.2f}",
                flush=True,
            )
    for kind in ("sandwich", "at_once"):
        command = [sys.executable, *sys.argv, f"--memory={kind}"]
        result = subprocess.run(
            command,
            env=os.environ,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        print(f"{kind}: {result.stdout.strip()}", flush=True)


if __name__ == "__main__":
    app.run(main)
