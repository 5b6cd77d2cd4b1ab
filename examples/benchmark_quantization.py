"""Measures the speed of quantized networks, in training and in LiteRT.

    python examples/benchmark_quantization.py

The networks take turns, and the medians are reported.

Training steps of an RS-Net-18: Int8 with private and with shared ranges; LQ-Nets
with 2-bit weights, and with 2-bit weights and activations. Each ratio is to the
float network of the same architecture, which for the last one is a ResNet with
pre-activation.

LiteRT: a pass of a single image of the Int8 and the float file, with one and with
two threads.
"""

import tempfile
import time

import command_line  # first: it silences TensorFlow
import numpy as np
import shared_flags
import tensorflow as tf
from absl import flags
from tables import print_table

import keras_resadapt
from keras_resadapt import export, inference, quantization, timing, training

FLAGS = flags.FLAGS
shared_flags.define_integers(
    "resolutions", [64, 48, 32], "Resolutions in training, in pixels."
)
shared_flags.define_integers("filters", [64, 128, 256, 512], "Channels per stage.")
flags.DEFINE_integer("batch_size", 32, "Images per step.", lower_bound=1)
flags.DEFINE_integer("rounds", 9, "Timed steps.", lower_bound=1)
shared_flags.define_integers(
    "litert_resolutions", [224, 160, 96], "Resolutions in LiteRT, in pixels."
)
flags.DEFINE_integer("litert_rounds", 41, "Timed passes.", lower_bound=1)

SCHEMES = {
    "int8": quantization.Int8(),
    "int8, shared ranges": quantization.Int8(private_ranges=False),
    "2/32": quantization.LearnedQuantization(2, 32),
    "2/2": quantization.LearnedQuantization(2, 2),
}


def build(resolutions, quantized=None, **kwargs):
    """Builds an RS-Net-18."""
    return keras_resadapt.RSNet18(
        50, resolutions, filters=FLAGS.filters, quantization=quantized, **kwargs
    )


def benchmark_steps():
    """Measures the training steps."""
    size = FLAGS.resolutions[0]
    rng = np.random.default_rng(0)
    images = tf.constant(
        rng.uniform(0, 255, (FLAGS.batch_size, size, size, 3)), tf.float32
    )
    labels = tf.constant(rng.integers(0, 50, FLAGS.batch_size))
    networks = {
        "float": build(FLAGS.resolutions),
        "float, pre-activation": build(FLAGS.resolutions, pre_activation=True),
        **{name: build(FLAGS.resolutions, s) for name, s in SCHEMES.items()},
    }
    first = {}
    for name, network in networks.items():
        network.compile(training.SGD(0.01, 0.9), metrics=["accuracy"])
        start = time.perf_counter()
        network.train_on_batch(images, labels)
        first[name] = time.perf_counter() - start
    times = timing.median_times(
        {
            name: lambda network=network: network.train_on_batch(images, labels)
            for name, network in networks.items()
        },
        FLAGS.rounds,
    )
    peers = {"2/2": "float, pre-activation"}
    print_table(
        ["training step", "median ms", "ratio to float", "first step, s"],
        [
            [
                name,
                f"{ms:.0f}",
                f"{ms / times[peers.get(name, 'float')]:.2f}",
                f"{first[name]:.1f}",
            ]
            for name, ms in times.items()
        ],
    )


def benchmark_litert():
    """Measures the LiteRT files."""
    plain = build(FLAGS.litert_resolutions)
    quantized = quantization.quantize(plain, quantization.Int8())
    size = max(FLAGS.litert_resolutions)
    images = np.random.default_rng(0).uniform(0, 255, (8, size, size, 3))
    quantization.calibrate_ranges(
        quantized, [(images.astype("float32"), np.zeros(8, int))], verbose=False
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {"float": plain, "int8": quantized}
        sizes = {
            name: export.export_litert(network, f"{folder}/{name}")["bytes"]
            for name, network in files.items()
        }
        print_table(
            ["file", "MB"],
            [[name, f"{size / 1e6:.1f}"] for name, size in sizes.items()],
        )
        rows = []
        for threads in (1, 2):
            readers = {
                name: inference.LiteRTNetwork(f"{folder}/{name}", threads)
                for name in files
            }
            rows += [
                [f"{point.name}, {threads}", *time_litert(readers, point)]
                for point in plain.operating_points
            ]
        print_table(
            ["LiteRT: operating point, threads", "float, ms", "int8, ms"]
            + ["float / int8"],
            rows,
        )


def time_litert(readers, point) -> list[str]:
    """Returns the cells of the row of an operating point."""
    image = np.zeros((1, point.resolution, point.resolution, 3), "float32")
    times = timing.median_times(
        {
            name: lambda reader=reader: reader.logits(image, point.name)
            for name, reader in readers.items()
        },
        FLAGS.litert_rounds,
    )
    ratio = times["float"] / times["int8"]
    return [f"{times['float']:.1f}", f"{times['int8']:.1f}", f"{ratio:.2f}"]


def main():
    benchmark_steps()
    benchmark_litert()


if __name__ == "__main__":
    command_line.run(main)
