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

A smaller width and resolution is measured against the largest of the same network. It
is the paper's Mask R-CNN on a ResNet-50 with all channels, for one image with sides in
the ratio 3 to 5:

  backbone_r240_w025, backbone_r600_w100    the backbone alone
  network_r240_w025, network_r600_w100      detections of an image
"""

import functools
import json
import os
import sys

import command_line  # first: it silences TensorFlow
import detection_batch
import numpy as np
import shared_flags
import tensorflow as tf
from absl import app, flags
from contestants import Contestant, print_ratios, print_times, work
from tables import print_table

import keras_resadapt
from keras_resadapt import (
    OperatingPoint,
    backbones,
    boxes,
    heads,
    inference,
    timing,
    training,
)
from keras_resadapt.boxes.nms import suppress
from keras_resadapt.profile import profile_point

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
flags.DEFINE_list("pairs", None, "Pairs to measure; by default, all of them.")
flags.DEFINE_string("worker", None, "Internal: what this process measures.")

POINTS = {"r240_w025": OperatingPoint(240, 0.25), "r600_w100": OperatingPoint(600, 1.0)}

# Pairs of contestants, and the aim of the ratio of their times
PAIRS = {
    "train": ("torch_train", 1.0),
    "inference": ("torch_inference", 0.9),
    "roi_align": ("torch_roi_align", None),
    "nms": ("torch_nms", None),
    "backbone_r240_w025": ("backbone_r600_w100", 0.25),
    "network_r240_w025": ("network_r600_w100", None),
}


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


def detect():
    detector = Detector()
    images, _ = make_batch()
    run = tf.function(detector.call)
    return (
        lambda: [x.numpy() for x in run(images).values()],
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


def make_mutual() -> keras_resadapt.MutualNet:
    """Returns the network that runs at all of `POINTS`."""
    resolutions = sorted((p.resolution for p in POINTS.values()), reverse=True)
    model = keras_resadapt.MutualMaskRCNN(
        FLAGS.num_classes, "resnet50", resolutions=resolutions
    )
    # Proposals are anchors: equally many at all points.
    model.head.rpn.deltas.kernel.assign(model.head.rpn.deltas.kernel * 0)
    return model


def point_images(model, point: OperatingPoint) -> np.ndarray:
    """Returns one random image at a point."""
    shape = (1, *model.image_size_of(point), 3)
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def run_part(model, part: str, images, point: OperatingPoint, **kwargs):
    """Runs the backbone alone, or the whole network."""
    if part == "backbone":
        return model.backbone.pyramid(images, point=point, **kwargs)
    return model(images, point=point, **kwargs)


def at_point(part: str, point: OperatingPoint) -> tuple:
    model = make_mutual()
    largest = point_images(model, model.full_point)
    inference.calibrate_batch_norm(model, [(largest,)], [point], verbose=False)
    run = tf.function(lambda images: run_part(model, part, images, point))
    images = tf.constant(point_images(model, point))
    return (
        lambda: [x.numpy() for x in run(images).values()],
        sum(int(np.prod(v.shape)) for v in model.trainable_variables),
    )


CONTESTANTS = {
    **{"train": train, "inference": detect, "roi_align": roi_align, "nms": nms},
    **{
        f"{part}_{name}": functools.partial(at_point, part, point)
        for part in ("backbone", "network")
        for name, point in POINTS.items()
    },
}


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


def command_of(name):
    """Returns the command of a contestant."""
    if name.startswith("torch"):
        return torch_command(name)
    return [__file__, *sys.argv[1:], f"--worker={name}"]


def measure(names, times, contestants):
    """Times one pair of contestants, which must be equally large."""
    pair = {name: Contestant(command_of(name)) for name in names}
    counts = [contestant.num_parameters for contestant in pair.values()]
    assert counts[0] == counts[1], f"Numbers of parameters differ: {counts}"
    functions = {name: contestant.run for name, contestant in pair.items()}
    times |= timing.time_in_turns(functions, FLAGS.rounds)
    for contestant in pair.values():
        contestant.close()
    contestants |= pair


def print_madds():
    """Prints the multiply-adds at all of `POINTS`, and their ratio."""
    model = make_mutual()
    rows = []
    for part in ("backbone", "network"):
        narrow, wide = (
            profile_point(
                functools.partial(run_part, model, part, training=True),
                (*model.image_size_of(point), 3),
                point,
            ).madds
            for point in POINTS.values()
        )
        rows.append([part, f"{narrow / 1e9:.2f}", f"{wide / 1e9:.2f}"])
        rows[-1].append(f"{narrow / wide:.3f}")
    print_table(["MAdds (G)", *POINTS, "ratio"], rows)


def main():
    if FLAGS.worker:
        if FLAGS.threads:
            tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
            tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
        work(*CONTESTANTS[FLAGS.worker]())
        return
    chosen = FLAGS.pairs or list(PAIRS)
    if unknown := set(chosen) - PAIRS.keys():
        raise app.UsageError(
            f"--pairs must be some of {', '.join(PAIRS)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    times, contestants = {}, {}
    for name in chosen:
        measure((name, PAIRS[name][0]), times, contestants)
    print_times(times, contestants)
    print_ratios(times, [(name, *PAIRS[name]) for name in chosen])
    if any(name.endswith("r240_w025") for name in chosen):
        print_madds()


if __name__ == "__main__":
    command_line.run(main)
