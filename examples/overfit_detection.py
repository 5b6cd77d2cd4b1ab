r"""Overfits a MutualNet for instance segmentation on a few images.

A network that learns in all its parts finds the objects of its training images. This
is a check of the training and no measure of accuracy: the average precision is that of
the images on which the network was trained.

    python examples/overfit_detection.py --dataset=coco_mini --data_dir=DIR

Trains the smallest and the largest width of a Mask R-CNN on a small ResNet with Adam,
without random changes of the images. Then it calibrates BatchNormalization on the same
images, and prints COCO's scores at both widths.
"""

import dataclasses

import command_line  # first: it silences TensorFlow
import keras
import shared_flags
from absl import flags
from tables import print_table

import keras_resadapt
from keras_resadapt import data, inference

FLAGS = flags.FLAGS
flags.DEFINE_integer("images", 20, "Number of training images.", lower_bound=1)
flags.DEFINE_integer("resolution", 160, "Short side in pixels.", lower_bound=32)
flags.DEFINE_integer("max_size", 320, "Largest long side in pixels.", lower_bound=32)
flags.DEFINE_list("width_range", ["0.5", "1"], "Smallest and largest width.")
shared_flags.define_integers("filters", [16, 32, 64, 128], "Channels per stage.")
shared_flags.define_integers("depths", [1, 1, 1, 1], "Blocks per stage.")
flags.DEFINE_integer("channels", 64, "Channels of the neck and the heads.", 1)
flags.DEFINE_integer("units", 256, "Units of the box head.", lower_bound=1)
flags.DEFINE_integer("steps", 600, "Training steps.", lower_bound=1)
flags.DEFINE_integer("batch_size", 4, "Images per step.", lower_bound=1)
flags.DEFINE_float("learning_rate", 1e-3, "Initial rate of the cosine schedule.", 0.0)
flags.DEFINE_integer("seed", 0, "Seed of the weights and the order.", lower_bound=0)

SCORES = ("box_ap", "box_ap50", "mask_ap", "mask_ap50")


def first_images() -> data.DetectionSource:
    """Returns the first images of the training split."""
    source = shared_flags.load_source("train", task="detection")
    number = min(FLAGS.images, source.num_examples)
    return dataclasses.replace(
        source,
        records=source.records.take(number),
        num_examples=number,
        shuffle_buffer=number,
    )


def build_model(num_classes: int) -> keras_resadapt.MutualNet:
    """Builds the network that the flags describe, for one resolution."""
    return keras_resadapt.MutualMaskRCNN(
        num_classes,
        "resnet18",
        width_range=tuple(float(width) for width in FLAGS.width_range),
        resolutions=(FLAGS.resolution,),
        max_size=FLAGS.max_size,
        depths=FLAGS.depths,
        filters=FLAGS.filters,
        channels=FLAGS.channels,
        units=FLAGS.units,
        settings={
            "anchor_sizes": (8, 16, 32, 64, 128),
            "rpn_candidates": (500, 250),
            "rpn_proposals": (500, 250),
            "rpn_samples": 128,
            "box_samples": 128,
        },
        num_random_widths=0,
    )


def train(model: keras_resadapt.MutualNet, source: data.DetectionSource) -> None:
    """Trains on the images without random changes, and calibrates on them."""
    batches = data.detection_training_batches(
        source,
        min(FLAGS.batch_size, source.num_examples),
        FLAGS.resolution,
        max_size=FLAGS.max_size,
        scale_range=(1.0, 1.0),
        flip=False,
        seed=FLAGS.seed,
    )
    schedule = keras.optimizers.schedules.CosineDecay(FLAGS.learning_rate, FLAGS.steps)
    model.compile(keras.optimizers.Adam(schedule))
    model.fit(batches, steps_per_epoch=FLAGS.steps)
    inference.calibrate_batch_norm(
        model, batches, points_of(model), source.num_examples, verbose=False
    )


def points_of(model: keras_resadapt.MutualNet) -> list[keras_resadapt.OperatingPoint]:
    """Returns the operating points of the largest and of the smallest width."""
    return model.grid(sorted(model.width_range, reverse=True))


def main():
    keras.utils.set_random_seed(FLAGS.seed)
    source = first_images()
    model = build_model(source.num_classes)
    train(model, source)
    batches = data.detection_evaluation_batches(
        source, FLAGS.batch_size, FLAGS.resolution, max_size=FLAGS.max_size
    )
    scores = model.score_points(batches, points_of(model))
    print(f"\n{source.num_examples} images, {FLAGS.steps} steps:")
    print_table(
        ["name", *SCORES],
        [
            [name, *(f"{of_point[score]:.3f}" for score in SCORES)]
            for name, of_point in scores.items()
        ],
    )


if __name__ == "__main__":
    command_line.run(main)
