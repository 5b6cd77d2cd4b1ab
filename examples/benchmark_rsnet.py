"""Measures the speed of an RS-Net: training step, inference and input pipeline.

    python examples/benchmark_rsnet.py --rounds=15

Each contestant runs in its own process, and they take turns, so that a machine
that slows down slows all of them equally. The medians are reported, and ratios
within the same rounds. `torch` requires PyTorch (`pip install torch`), and is
left out where it is not installed.
"""

import os
import statistics
import subprocess
import sys
import time

import command_line  # first: it silences TensorFlow
import keras
import numpy as np
import shared_flags
import tensorflow as tf
from absl import app, flags
from keras import ops
from tables import print_table

import keras_resadapt
from keras_resadapt import data, training
from keras_resadapt.layers import resize_bilinear

FLAGS = flags.FLAGS
shared_flags.define_integers("resolutions", [64, 48, 32], "Resolutions in pixels.")
flags.DEFINE_integer("batch_size", 32, "Images per step.", lower_bound=1)
flags.DEFINE_integer("num_classes", 10, "Number of classes.", lower_bound=1)
flags.DEFINE_integer("rounds", 15, "Timed rounds.", lower_bound=1)
flags.DEFINE_integer("steps", 3, "Steps per round.", lower_bound=1)
CONTESTANTS = (
    *("ours", "ours_bfloat16", "torch", "plain", "single"),
    *("predict", "plain_predict", "pipeline", "fed"),
)
RATIOS = (
    ("ours", "torch"),
    ("ours_bfloat16", "torch"),
    ("ours", "plain"),
    ("ours", "single"),
    ("predict", "plain_predict"),
    ("pipeline", "ours"),
    ("fed", "ours"),
)
flags.DEFINE_list("contestants", list(CONTESTANTS), "What to measure.")
flags.DEFINE_string("worker", None, "Internal: what this process measures.")


# === Contestants: functions that return a function that runs one step ===


def batch(size):
    """Returns random images and labels."""
    rng = np.random.default_rng(0)
    shape = (FLAGS.batch_size, size, size, 3)
    images = rng.uniform(0, 255, shape).astype("float32")
    return images, rng.integers(0, FLAGS.num_classes, FLAGS.batch_size)


def fit_step(model, batches):
    """Returns a training step, run as in the loop of `fit`."""
    if not isinstance(batches, tf.data.Dataset):
        batches = tf.data.Dataset.from_tensors(batches).repeat()
    iterator = iter(batches)
    model.make_train_function()

    def step():
        logs = model.train_function(iterator)
        return float(logs["loss"])

    return step


def our_model(sizes, **kwargs):
    """Builds and compiles an RS-Net-18."""
    model = keras_resadapt.RSNet18(FLAGS.num_classes, sizes, **kwargs)
    model.compile(training.SGD(0.1, weight_decay=1e-4), metrics=["accuracy"])
    return model


def ours():
    """A training step with full distillation."""
    return fit_step(our_model(FLAGS.resolutions), batch(FLAGS.resolutions[0]))


def ours_bfloat16():
    """The same step in mixed bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    return ours()


def single():
    """One step of a separate network at each resolution.

    They run one after another, on images of the largest resolution. These are
    the parts of a step over all resolutions.
    """
    size = FLAGS.resolutions[0]
    steps = [fit_step(_single_model(r, size), batch(size)) for r in FLAGS.resolutions]
    return lambda: [step() for step in steps]


def _single_model(resolution, size):
    model = our_model([resolution])
    prepare = model.prepare_inputs

    def resized(images):
        return prepare(resize_bilinear(images, resolution))

    model.prepare_inputs = resized
    return model


def plain():
    """The same step, written with stock Keras layers and losses."""
    sizes = FLAGS.resolutions
    trunk = PlainResNet18(FLAGS.num_classes, len(sizes))
    inputs = keras.Input((sizes[0], sizes[0], 3))

    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.networks = [
                trunk.network(keras.Input((r, r, 3)), i) for i, r in enumerate(sizes)
            ]
            self.alpha = self.add_weight(
                shape=(len(sizes),), initializer="ones", name="alpha"
            )

        def call(self, images, training=None):
            x = images / 127.5 - 1
            return [
                network(
                    tf.image.resize(x, (r, r), antialias=True),
                    training=training,
                )
                for network, r in zip(self.networks, sizes)
            ]

        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            divergence = keras.losses.KLDivergence()
            fixed = [ops.stop_gradient(z) for z in y_pred]
            weights = ops.softmax(self.alpha)
            ensemble = sum(weights[i] * z for i, z in enumerate(fixed))
            teachers = [ops.stop_gradient(ensemble), *fixed]
            kl = sum(
                divergence(ops.softmax(teachers[t]), ops.softmax(y_pred[s]))
                for s in range(len(sizes))
                for t in range(s + 1)
            )
            return (
                sum(entropy(y, z) for z in y_pred)
                + entropy(y, ensemble)
                + 2 / (len(sizes) + 1) * kl
            )

    model = Plain()
    model(inputs)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4),
        jit_compile=False,
    )
    return fit_step(model, batch(sizes[0]))


class PlainResNet18:
    """ResNet-18 in the style of `keras.applications`, with shared convolutions."""

    def __init__(self, num_classes, branches=1):
        self.num_classes = num_classes
        self.branches = branches
        self.shared = {}

    def _conv(self, x, filters, kernel_size, strides, name):
        if name not in self.shared:
            self.shared[name] = keras.layers.Conv2D(
                filters,
                kernel_size,
                strides=strides,
                padding="same",
                use_bias=False,
            )
        return self.shared[name](x)

    def _bn(self, x):
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    def network(self, inputs, branch=0):
        relu = keras.ops.relu
        x = relu(self._bn(self._conv(inputs, 64, 7, 2, "stem")))
        x = keras.layers.MaxPooling2D(3, 2, padding="same")(x)
        for i, filters in enumerate((64, 128, 256, 512)):
            for j in range(2):
                strides = 2 if i and not j else 1
                name = f"{i}{j}"
                y = relu(self._bn(self._conv(x, filters, 3, strides, name + "a")))
                y = self._bn(self._conv(y, filters, 3, 1, name + "b"))
                if strides > 1:
                    x = self._bn(self._conv(x, filters, 1, strides, name + "c"))
                x = relu(x + y)
        x = keras.layers.GlobalAveragePooling2D()(x)
        if "fc" not in self.shared:
            self.shared["fc"] = keras.layers.Dense(self.num_classes)
        return keras.Model(inputs, self.shared["fc"](x))


def torch():
    """The step in PyTorch, as in the authors' training loop."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(os.cpu_count())
    sizes = FLAGS.resolutions

    class SwitchableNorm(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.bns = nn.ModuleList(nn.BatchNorm2d(channels) for _ in sizes)

        def forward(self, xs):
            return [bn(x) for bn, x in zip(self.bns, xs)]

    class Each(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, xs):
            return [self.module(x) for x in xs]

    def conv(i, o, k, s):
        return Each(nn.Conv2d(i, o, k, s, k // 2, bias=False))

    relu = Each(nn.ReLU(inplace=True))

    class BasicBlock(nn.Module):
        def __init__(self, i, o, s):
            super().__init__()
            self.body = nn.Sequential(
                conv(i, o, 3, s),
                SwitchableNorm(o),
                relu,
                conv(o, o, 3, 1),
                SwitchableNorm(o),
            )
            self.shortcut = (
                nn.Sequential(conv(i, o, 1, s), SwitchableNorm(o))
                if s > 1
                else nn.Identity()
            )

        def forward(self, xs):
            sums = [a + b for a, b in zip(self.body(xs), self.shortcut(xs))]
            return relu(sums)

    blocks, channels = [], 64
    for i, filters in enumerate((64, 128, 256, 512)):
        blocks += [
            BasicBlock(channels, filters, 2 if i else 1),
            BasicBlock(filters, filters, 1),
        ]
        channels = filters
    network = nn.Sequential(
        conv(3, 64, 7, 2),
        SwitchableNorm(64),
        relu,
        Each(nn.MaxPool2d(3, 2, 1)),
        *blocks,
        Each(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(512, FLAGS.num_classes),
            )
        ),
    )
    network.alpha = nn.Parameter(torch.ones(len(sizes)))
    optimizer = torch.optim.SGD(
        network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4
    )
    images, labels = batch(sizes[0])
    images = torch.tensor(images.transpose(0, 3, 1, 2).copy())
    labels = torch.tensor(labels)

    def step():
        x = images / 255
        xs = [x] + [
            F.interpolate(x, (r, r), mode="bilinear", antialias=True) for r in sizes[1:]
        ]
        logits = network(xs)
        loss = sum(F.cross_entropy(z, labels) for z in logits)
        weights = torch.softmax(network.alpha, 0)
        ensemble = sum(w * z.detach() for w, z in zip(weights, logits))
        loss = loss + F.cross_entropy(ensemble, labels)
        teachers = [ensemble.detach(), *(z.detach() for z in logits)]
        kl = sum(
            F.kl_div(
                F.log_softmax(logits[s], 1),
                F.softmax(teachers[t], 1),
                reduction="batchmean",
            )
            for s in range(len(sizes))
            for t in range(s + 1)
        )
        loss = loss + 2 / (len(sizes) + 1) * kl
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def predict():
    """A pass of our network at its largest resolution, run as in `predict`."""
    return _predict_step(our_model(FLAGS.resolutions))


def plain_predict():
    """The same pass of the stock network."""
    size = FLAGS.resolutions[0]
    inputs = keras.Input((size, size, 3))
    model = PlainResNet18(FLAGS.num_classes).network(inputs)
    model.compile(jit_compile=False)
    return _predict_step(model)


def _predict_step(model):
    images = tf.constant(batch(FLAGS.resolutions[0])[0])
    model.make_predict_function()

    def step():
        return model.predict_function([(images,)]).numpy()

    return step


def pipeline():
    """A training batch of the input pipeline, from JPEG images in memory."""
    batches = iter(_training_batches())
    return lambda: next(batches)[0].numpy()


def fed():
    """Our step, fed by the pipeline."""
    return fit_step(our_model(FLAGS.resolutions), _training_batches())


def _training_batches():
    size = FLAGS.resolutions[0]
    rng = np.random.default_rng(0)
    pictures = [
        tf.io.encode_jpeg(
            rng.integers(0, 256, (size // 8, size // 8, 3), "uint8")
            .repeat(8, 0)
            .repeat(8, 1)
        ).numpy()
        for _ in range(1000)
    ]
    pictures = tf.constant(pictures)
    source = data.ImageSource(
        name="random",
        records=tf.data.Dataset.range(1000).map(
            lambda i: (i, i % 10, tf.strings.as_string(i))
        ),
        read=lambda i: tf.gather(pictures, i),
        class_names=tuple("0123456789"),
        num_examples=1000,
        image_shape=(size, size),
    )
    return data.training_batches(source, FLAGS.batch_size, size, seed=0)


# === Processes that take turns ===


def work(name):
    """Runs a contestant: as many steps as each line of stdin contains."""
    step = globals()[name]()
    for _ in range(3):
        step()
    print("READY", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = time.perf_counter() - start
        print(f"TIME {seconds / int(line)}", flush=True)


class Contestant:
    """A process that runs the steps of a contestant."""

    def __init__(self, name):
        self.process = subprocess.Popen(
            [
                sys.executable,
                __file__,
                f"--worker={name}",
                *(a for a in sys.argv[1:] if not a.startswith("--contest")),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.wait_for("READY")

    def wait_for(self, word):
        for line in self.process.stdout:
            if line.startswith(word):
                return line.split()[1:]
        raise RuntimeError("The process of a contestant ended.")

    def run(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self.wait_for("TIME")[0])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def start(names) -> dict[str, Contestant]:
    """Starts the processes of the contestants that can run here."""
    contestants = {}
    for name in names:
        if name not in CONTESTANTS:
            raise app.UsageError(
                f"--contestants must be of {', '.join(CONTESTANTS)}. Received: {name!r}"
            )
        try:
            contestants[name] = Contestant(name)
        except RuntimeError:
            print(f"{name} is left out: it cannot run here. Is it installed?")
    return contestants


def measure(contestants: dict[str, Contestant]) -> dict[str, list[float]]:
    """Returns the seconds per step of each contestant in each round."""
    times = {name: [] for name in contestants}
    for round_ in range(FLAGS.rounds):
        for name, contestant in contestants.items():
            # Some batches wait in the pipeline's buffer while others run.
            factor = 100 if name == "pipeline" else 1
            times[name].append(contestant.run(factor * FLAGS.steps))
        print(f"\rround {round_ + 1} of {FLAGS.rounds}", end="", flush=True)
    return times


def main():
    if FLAGS.worker:
        work(FLAGS.worker)
        return
    contestants = start(FLAGS.contestants)
    times = measure(contestants)
    for contestant in contestants.values():
        contestant.close()
    print_table(
        ["contestant", "median ms", "min", "max", "images per second"],
        [
            [
                name,
                *(f"{1e3 * f(s):.1f}" for f in (statistics.median, min, max)),
                f"{FLAGS.batch_size / statistics.median(s):.0f}",
            ]
            for name, s in times.items()
        ],
    )
    print_table(
        ["contestants", "median ratio"],
        [
            [
                f"{a} / {b}",
                f"{statistics.median(x / y for x, y in zip(times[a], times[b])):.3f}",
            ]
            for a, b in RATIOS
            if a in times and b in times
        ],
    )


if __name__ == "__main__":
    command_line.run(main)
