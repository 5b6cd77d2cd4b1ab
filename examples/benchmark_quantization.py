"""Speed of quantized networks: training steps, and LiteRT passes.

    python examples/benchmark_quantization.py

In turns, medians, as a ratio to the float network of the same architecture:
  step     a training step of an RS-Net-18: Int8 with private and with shared
           ranges; LQ-Nets with 2-bit weights, and with 2-bit weights and
           activations, the latter against a float ResNet with pre-activation
  LiteRT   a pass of a single image of the Int8 and the float file, one and
           two threads
"""

import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import app, flags, logging

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import export, inference, quantization, training

FLAGS = flags.FLAGS
flags.DEFINE_list("resolutions", ["64", "48", "32"], "In pixels.")
flags.DEFINE_list("filters", ["64", "128", "256", "512"], "Channels a stage.")
flags.DEFINE_integer("batch_size", 32, "Pictures a step.")
flags.DEFINE_integer("rounds", 9, "Timed steps.")
flags.DEFINE_list("litert_resolutions", ["224", "160", "96"], "In pixels.")
flags.DEFINE_integer("litert_rounds", 41, "Timed passes.")

SCHEMES = {
    "int8": quantization.Int8(),
    "int8, shared ranges": quantization.Int8(private_ranges=False),
    "2/32": quantization.LearnedQuantization(2, 32),
    "2/2": quantization.LearnedQuantization(2, 2),
}


def build(resolutions, quantized=None, **kwargs):
    return keras_resadapt.RSNet18(
        50,
        [int(r) for r in resolutions],
        filters=[int(f) for f in FLAGS.filters],
        quantization=quantized,
        **kwargs,
    )


def medians(contestants, rounds) -> dict[str, float]:
    """Median milliseconds of functions that take turns."""
    times = {name: [] for name in contestants}
    for turn in range(rounds + 2):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def benchmark_steps():
    size = int(FLAGS.resolutions[0])
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
    times = medians(
        {
            name: lambda network=network: network.train_on_batch(images, labels)
            for name, network in networks.items()
        },
        FLAGS.rounds,
    )
    print("training step          median ms   ratio   first step, s")
    for name, value in times.items():
        peer = "float, pre-activation" if name == "2/2" else "float"
        ratio = value / times[peer]
        print(f"{name:22}{value:10.0f}{ratio:8.2f}{first[name]:12.1f}")


def benchmark_litert():
    plain = build(FLAGS.litert_resolutions)
    quantized = quantization.quantize(plain, quantization.Int8())
    size = max(int(r) for r in FLAGS.litert_resolutions)
    images = np.random.default_rng(0).uniform(0, 255, (8, size, size, 3))
    quantization.calibrate_ranges(
        quantized, [(images.astype("float32"), np.zeros(8, int))], verbose=False
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {"float": plain, "int8": quantized}
        for name, network in files.items():
            written = export.export_litert(network, f"{folder}/{name}")
            print(f"{name}: {written['bytes'] / 1e6:.1f} MB")
        for threads in (1, 2):
            readers = {
                name: inference.LiteRTNetwork(f"{folder}/{name}", threads)
                for name in files
            }
            for point in plain.operating_points:
                size = point.resolution
                image = np.zeros((1, size, size, 3), "float32")
                times = medians(
                    {
                        name: lambda reader=reader: reader.logits(image, point.name)
                        for name, reader in readers.items()
                    },
                    FLAGS.litert_rounds,
                )
                print(
                    f"LiteRT, {point.name}, {threads} thread(s): float "
                    f"{times['float']:.1f} ms, int8 {times['int8']:.1f} ms, "
                    f"{times['float'] / times['int8']:.2f} times as fast"
                )


def main(_):
    logging.set_verbosity(logging.WARNING)  # the converters say a lot
    benchmark_steps()
    benchmark_litert()


if __name__ == "__main__":
    app.run(main)
