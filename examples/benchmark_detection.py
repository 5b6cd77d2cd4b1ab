"""Measures the speed and the memory of Mask R-CNN against torchvision.

    python examples/benchmark_detection.py

Each contestant runs in its own process. Those of a group take turns, so that a
machine that slows down slows all of them equally. The medians are reported, and
ratios within the same rounds. PyTorch and torchvision are required
(`pip install torch torchvision`). The threads of PyTorch wait for one another in a
busy loop: unless the machine is idle, PyTorch can be many times slower with all cores
than with `--threads=1`.

The network is a Mask R-CNN on a ResNet-50, by default with a quarter of the channels
everywhere, for square images. The training step has all five losses and the
update. Inference returns boxes and masks of 28 x 28 pixels. With few classes, an
untrained network returns the largest number of detections, 100 per image.

  train, torch_train            a training step
  inference, torch_inference    detections of a batch
  roi_align, torch_roi_align    ROI align of 1024 boxes and its gradient
  nms, torch_nms                NMS of 3000 candidates on 3 levels for each of 2 images
"""

import json
import os
import sys

import command_line  # first: it silences TensorFlow
import detection_batch
import numpy as np
import shared_flags
import tensorflow as tf
from absl import flags
from contestants import Contestant, print_ratios, print_times, work

from keras_resadapt import OperatingPoint, backbones, boxes, heads, timing, training
from keras_resadapt.boxes.nms import suppress

SGD = {"learning_rate": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

FLAGS = flags.FLAGS
flags.DEFINE_integer("size", 320, "Height and width of the images.", lower_bound=32)
flags.DEFINE_integer("batch_size", 2, "Images per step.", lower_bound=1)
shared_flags.define_integers(
    "filters", [16, 32, 64, 128], "Channels of each stage of the ResNet-50."
)
flags.DEFINE_integer("channels", 64, "Channels of neck and heads.", lower_bound=1)
flags.DEFINE_integer("units", 256, "Units of the box head.", lower_bound=1)
flags.DEFINE_integer("num_classes", 3, "Number of classes.", lower_bound=1)
flags.DEFINE_integer("rounds", 11, "Timed rounds.", lower_bound=1)
flags.DEFINE_integer(
    "threads", None, "Threads of each framework; by default, all cores.", lower_bound=1
)
flags.DEFINE_string("worker", None, "Internal: what this process measures.")

# The pairs, and the aim of their ratio
PAIRS = {"train": 1.0, "inference": 0.9, "roi_align": None, "nms": None}


# === Contestants: functions that return a step and its number of parameters ===


class Detector:
    """A backbone and a head that take images in [0, 1]."""

    def __init__(self):
        self.backbone = backbones.ResNet(
            (3, 4, 6, 3), FLAGS.filters, bottleneck=True, zero_init_residual=True
        )
        self.head = heads.MaskRCNN(
            FLAGS.num_classes,
            self.backbone.level_strides,
            channels=FLAGS.channels,
            units=FLAGS.units,
            name="head",
        )
        self.call(np.zeros((1, 64, 64, 3), "float32"))
        # As in the other contestant, proposals are anchors: equally many in both.
        self.head.rpn.deltas.kernel.assign(self.head.rpn.deltas.kernel * 0)

    @property
    def variables(self):
        return self.backbone.trainable_variables + self.head.trainable_variables

    def num_parameters(self):
        return sum(int(np.prod(v.shape)) for v in self.variables)

    def call(self, images, targets=None, training=False):
        point = OperatingPoint()
        pyramid = self.backbone.pyramid((images - MEAN) / DEVIATION, training=training)
        return self.head(pyramid, point=point, targets=targets, training=training)


def make_batch():
    images, (rois, classes, masks) = detection_batch.batch(
        FLAGS.size, FLAGS.batch_size, FLAGS.num_classes
    )
    count = np.full(len(images), classes.shape[1])
    targets = {"boxes": rois, "classes": classes, "masks": masks, "count": count}
    return tf.constant(images), tf.nest.map_structure(tf.constant, targets)


def train():
    detector = Detector()
    images, targets = make_batch()
    optimizer = training.SGD(**SGD)
    variables = detector.variables
    optimizer.build(variables)

    @tf.function
    def update(images, targets):
        with tf.GradientTape() as tape:
            outputs = detector.call(images, targets, training=True)
            loss = sum(boxes.detection_losses(outputs).values())
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply(gradients, variables)
        return loss

    return lambda: float(update(images, targets)), detector.num_parameters()


def inference():
    detector = Detector()
    images, _ = make_batch()
    detect = tf.function(detector.call)
    return (
        lambda: [x.numpy() for x in detect(images).values()],
        detector.num_parameters(),
    )


def roi_align():
    features, rois, images = map(tf.constant, detection_batch.features_and_boxes())

    @tf.function
    def align(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            y = boxes.roi_align(features, rois, images, 7, 0.25)
            total = tf.reduce_sum(y)
        return total, tape.gradient(total, features)

    return lambda: [x.numpy() for x in align(features)], 0


def nms():
    candidates, scores, _ = detection_batch.candidates()
    # Levels as groups
    candidates = candidates.reshape(2, 3, 1000, 4).swapaxes(1, 2)
    scores = scores.reshape(2, 3, 1000).swapaxes(1, 2)
    select = tf.function(lambda *inputs: suppress(*inputs, 1000, 0.7))
    inputs = tf.constant(candidates), tf.constant(scores)
    return lambda: [x.numpy() for x in select(*inputs)], 0


# === Measurements ===


def torch_command(name):
    """Returns the command of a contestant in PyTorch."""
    network = {
        name: FLAGS[name].value
        for name in ("filters", "channels", "units", "num_classes", "size")
    }
    arguments = {
        "name": name,
        "network": network,
        "batch_size": FLAGS.batch_size,
        "sgd": {"lr" if k == "learning_rate" else k: v for k, v in SGD.items()},
        "threads": FLAGS.threads or os.cpu_count(),
    }
    script = os.path.join(os.path.dirname(__file__), "torch_mask_rcnn.py")
    return [script, json.dumps(arguments)]


def measure(name, times, contestants):
    """Times one pair of contestants, which must be equally large."""
    other = f"torch_{name}"
    pair = {
        name: Contestant([__file__, *sys.argv[1:], f"--worker={name}"]),
        other: Contestant(torch_command(other)),
    }
    counts = [contestant.num_parameters for contestant in pair.values()]
    assert counts[0] == counts[1], f"Numbers of parameters differ: {counts}"
    functions = {name: contestant.run for name, contestant in pair.items()}
    times |= timing.time_in_turns(functions, FLAGS.rounds)
    for contestant in pair.values():
        contestant.close()
    contestants |= pair


def main():
    if FLAGS.worker:
        if FLAGS.threads:
            tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
            tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
        work(*globals()[FLAGS.worker]())
        return
    times, contestants = {}, {}
    for name in PAIRS:
        measure(name, times, contestants)
    print_times(times, contestants)
    aims = [(name, f"torch_{name}", aim) for name, aim in PAIRS.items()]
    print_ratios(times, aims)


if __name__ == "__main__":
    command_line.run(main)
