"""Measures the speed and the memory of RS-Net for segmentation.

    python examples/benchmark_segmentation.py

Each contestant runs in its own process. Those of a group take turns, so that a
machine that slows down slows all of them equally. The medians are reported, and
ratios within the same rounds. PyTorch is required (`pip install torch`). Its threads
wait for one another in a busy loop: unless the machine is idle, PyTorch can be many
times slower with all cores than with `--threads=1`.

Training step of `RSRefineNet18`, with full distillation and the update:
  ours          at all resolutions, without metrics
  ours_metrics  the same step with the default metrics
  torch         the step in PyTorch
  singles       one step of a separate network at each resolution, one after
                another, on crops and masks of the largest resolution
  own_size      the same, on crops and masks of the resolution itself

Training step of `RSRefineNet101` at 256 x 320 pixels with batch size 1:
  ours_101, torch_101

Inference of `RSRefineNet18` for one image of the largest resolution:
  signature     a signature of the exported SavedModel
  logits        `model.logits` under `tf.function`
  response      the same, and the outputs of the signature made from the logits:
                classes and probabilities at the size of the image
"""

import json
import os
import sys
import tempfile

import command_line  # first: it silences TensorFlow
import numpy as np
import shared_flags
import tensorflow as tf
from absl import flags
from contestants import Contestant, print_ratios, print_times, work

import keras_resadapt
from keras_resadapt import export, timing, training
from keras_resadapt.layers import resize_bilinear

NUM_CLASSES = 40
SIZE_101 = (256, 320)
ROUNDS_101 = 5  # at most, as a step takes many seconds
SGD = {"learning_rate": 1e-3, "momentum": 0.9, "weight_decay": 1e-5}

FLAGS = flags.FLAGS
shared_flags.define_integers("resolutions", [352, 224, 96], "Resolutions in pixels.")
shared_flags.define_integers(
    "filters", [64, 128, 256, 512], "Channels of each stage of the ResNet-18."
)
flags.DEFINE_integer("channels", 256, "Channels of the decoder.", lower_bound=1)
flags.DEFINE_integer("batch_size", 2, "Images per step.", lower_bound=1)
flags.DEFINE_integer("rounds", 11, "Timed rounds.", lower_bound=1)
flags.DEFINE_integer(
    "threads", None, "Threads of each framework; by default, all cores.", lower_bound=1
)
flags.DEFINE_bool("skip_101", False, "Whether to leave out RSRefineNet101.")
flags.DEFINE_string("worker", None, "Internal: what this process measures.")

TRAINING = ("ours", "ours_metrics", "torch", "singles", "own_size")
TRAINING_101 = ("ours_101", "torch_101")
INFERENCE = ("signature", "logits", "response")
# The contestants of each ratio, and the aim
AIMS = (
    ("ours", "torch", 1.0),
    ("ours_metrics", "torch", None),
    ("ours", "singles", 1.05),
    ("ours", "own_size", None),
    ("ours_101", "torch_101", 1.0),
    ("signature", "logits", 1.05),
    ("signature", "response", None),
)


# === Contestants: functions that return a step and its number of parameters ===


def batch(size, batch_size):
    """Returns random images, and masks of which a tenth is void."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch_size, *size, 3)).astype("float32")
    masks = rng.integers(0, NUM_CLASSES, (batch_size, *size))
    masks[rng.random(masks.shape) < 0.1] = 255
    return images, masks


def square(resolution):
    return resolution, resolution


def our_network(resolutions):
    return keras_resadapt.RSRefineNet18(
        NUM_CLASSES, resolutions, filters=FLAGS.filters, channels=FLAGS.channels
    )


def fit_step(model, size, batch_size, metrics=()):
    """Returns a training step, run as in the loop of `fit`, and parameters."""
    model.compile(training.SGD(**SGD), metrics=metrics)
    batches = tf.data.Dataset.from_tensors(batch(size, batch_size)).repeat()
    iterator = iter(batches)
    model.make_train_function()

    def step():
        return float(model.train_function(iterator)["loss"])

    return step, sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def ours(metrics=()):
    sizes = FLAGS.resolutions
    model = our_network(sizes)
    return fit_step(model, square(sizes[0]), FLAGS.batch_size, metrics)


def ours_metrics():
    return ours(None)


def ours_101():
    model = keras_resadapt.RSRefineNet101(NUM_CLASSES, [SIZE_101[0]])
    return fit_step(model, SIZE_101, 1)


def own_size():
    parts = [
        fit_step(our_network([r]), square(r), FLAGS.batch_size)
        for r in FLAGS.resolutions
    ]
    return one_after_another(parts)


def singles():
    size = square(FLAGS.resolutions[0])
    parts = []
    for resolution in FLAGS.resolutions:
        model = our_network([resolution])
        # It takes the crops of the largest resolution and resizes them itself.
        model.prepare_inputs = lambda x, r=resolution: (resize_bilinear(x, r),)
        parts.append(fit_step(model, size, FLAGS.batch_size))
    return one_after_another(parts)


def one_after_another(parts):
    steps, counts = zip(*parts)
    return lambda: [step() for step in steps], sum(counts)


def inference(kind):
    """Returns a pass for one image of the largest resolution."""
    size = square(FLAGS.resolutions[0])
    model = our_network(FLAGS.resolutions)
    point = model.operating_points[0]
    images = tf.constant(batch(size, 1)[0])
    spec = tf.TensorSpec((None, *size, 3))

    def response(images):
        outputs = model.task.align(model.logits(images, point), size)
        return model.task.response(outputs)

    def logits(images):
        return {"logits": model.logits(images, point)}

    if kind == "logits":
        function = tf.function(logits, [spec])
    elif kind == "response":
        function = tf.function(response, [spec])
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "1")
            options = {"encoded": False, "warmup_batch_sizes": ()}
            export.export_saved_model(model, path, points=[point], **options)
            loaded = tf.saved_model.load(path)
        function = loaded.signatures[point.name]
        # The signature belongs to this object, which must stay alive.
        function.loaded = loaded
    return lambda: [x.numpy() for x in function(images=images).values()]


# === Measurements ===


def torch_command(name):
    """Returns the command of a contestant in PyTorch."""
    if name == "torch_101":
        network = {"depths": (3, 4, 23, 3), "filters": (64, 128, 256, 512)}
        network |= {"bottleneck": True, "light": False, "channels": 256}
        sizes, batch_size = [SIZE_101], 1
    else:
        network = {"depths": (2, 2, 2, 2), "filters": FLAGS.filters}
        network |= {"bottleneck": False, "light": True, "channels": FLAGS.channels}
        sizes, batch_size = [square(r) for r in FLAGS.resolutions], FLAGS.batch_size
    arguments = {
        "threads": FLAGS.threads or os.cpu_count(),
        "network": network | {"num_classes": NUM_CLASSES},
        **{"sizes": sizes, "batch_size": batch_size},
        "sgd": {"lr" if k == "learning_rate" else k: v for k, v in SGD.items()},
    }
    script = os.path.join(os.path.dirname(__file__), "torch_refinenet.py")
    return [script, json.dumps(arguments)]


def start(names):
    """Starts contestants, of which ours and PyTorch's must be equally large."""
    contestants = {}
    for name in names:
        command = [__file__, *sys.argv[1:], f"--worker={name}"]
        if name.startswith("torch"):
            command = torch_command(name)
        contestants[name] = Contestant(command)
    for name in {"ours", "ours_101"}.intersection(names):
        other = name.replace("ours", "torch")
        counts = [contestants[n].num_parameters for n in (name, other)]
        assert counts[0] == counts[1], f"Numbers of parameters differ: {counts}"
    return contestants


def main():
    if FLAGS.worker and FLAGS.threads:
        tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
        tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    if FLAGS.worker in INFERENCE:
        work(inference(FLAGS.worker))
        return
    if FLAGS.worker:
        work(*globals()[FLAGS.worker]())
        return
    groups = [(TRAINING, FLAGS.rounds), (INFERENCE, 3 * FLAGS.rounds)]
    if not FLAGS.skip_101:
        groups.append((TRAINING_101, min(FLAGS.rounds, ROUNDS_101)))
    times, contestants = {}, {}
    for names, rounds in groups:
        group = start(names)
        functions = {name: contestant.run for name, contestant in group.items()}
        times |= timing.time_in_turns(functions, rounds)
        for contestant in group.values():
            contestant.close()
        contestants |= group
    print_times(times, contestants)
    print_ratios(times, AIMS)


if __name__ == "__main__":
    command_line.run(main)
