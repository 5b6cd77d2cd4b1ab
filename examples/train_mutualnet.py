"""Trains a MutualNet: any width at any of several resolutions.

By default on the package's own demo set, in minutes on a CPU:

    python examples/train_mutualnet.py --epochs=30 --batch_size=64 \
        --learning_rate=2 --crop=pad --crop_fraction=1 \
        --output_dir=runs/demo_mutualnet

The paper's recipe (appendix A.1), on the GPUs of one machine:

    python examples/train_mutualnet.py --dataset=imagenet2012 --data_dir=DIR \
        --model=mobilenet_v1 --batch_size=1024 --strategy=mirrored \
        --output_dir=runs/mutual_mobilenet_v1

and what it has been compared with: US-Net is `--resolutions=224`, US-Net+
`--train_resolutions=224`. Fine-tuning on another data set (section 4.2) starts
from a trained network, with a new classifier:

    python examples/train_mutualnet.py --dataset=cifar100 --data_dir=DIR \
        --init_from=runs/mutual_mobilenet_v1/model.keras --epochs=100 \
        --learning_rate=0.4 --batch_size=256 --output_dir=runs/fine_tuned

An interrupted run goes on with `--resume` from its last finished epoch. At the
end, the statistics of every width and resolution are computed on training
pictures, and all are measured: `query_table.json`, which an interrupted
measurement also goes on with.
"""

import functools
import os

import keras
import training_script
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import analysis, data, inference, training

MODELS = {
    # For the demo set and other small pictures
    "tiny": functools.partial(
        keras_resadapt.MutualMobileNetV1,
        depths=(1, 1, 1),
        filters=(32, 64, 128),
        stem="small",
        name="mutual_tiny",
    ),
    "mobilenet_v1": keras_resadapt.MutualMobileNetV1,
    "mobilenet_v2": keras_resadapt.MutualMobileNetV2,
    "resnet50": keras_resadapt.MutualResNet50,
    "vgg16": keras_resadapt.MutualVGG16,
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "tiny", list(MODELS), "The network.")
flags.DEFINE_list(
    "resolutions",
    None,
    "In pixels; default: 48, 32 and 16 of the tiny "
    "network, the paper's 224, 192, 160 and 128 of the others.",
)
flags.DEFINE_list("train_resolutions", None, "Default: all of them.")
flags.DEFINE_list("width_range", ["0.25", "1"], "Smallest and largest width.")
flags.DEFINE_integer("num_random_widths", 2, "Drawn a step.", lower_bound=0)
flags.DEFINE_enum("distillation", "kl", ["kl", "alpha"], "The sub-networks' loss.")
flags.DEFINE_enum("stem", None, ["small", "imagenet"], "Default: the network's own.")
flags.DEFINE_list("depths", None, "Blocks a stage, likewise.")
flags.DEFINE_list("filters", None, "Channels a stage, likewise.")
flags.DEFINE_string(
    "init_from",
    None,
    "A `.keras` file of a MutualNet to fine-tune, which also gives all the above.",
)
flags.DEFINE_float("width_step", 0.05, "Of the query table.", lower_bound=0.01)
flags.DEFINE_integer(
    "calibration_images",
    2000,
    "Training pictures for the statistics.",
    lower_bound=1,
)


def _integers(values):
    return values and tuple(int(value) for value in values)


def build_model(num_classes: int) -> keras_resadapt.MutualNet:
    """The network that the flags describe."""
    if FLAGS.init_from:
        model = keras.models.load_model(FLAGS.init_from)
        return model.with_classes(num_classes)
    default = (48, 32, 16) if FLAGS.model == "tiny" else None
    options = {
        "stem": FLAGS.stem,
        "resolutions": _integers(FLAGS.resolutions) or default,
        "train_resolutions": _integers(FLAGS.train_resolutions),
        "depths": _integers(FLAGS.depths),
        "filters": _integers(FLAGS.filters),
    }
    model = MODELS[FLAGS.model](
        num_classes,
        tuple(float(width) for width in FLAGS.width_range),
        num_random_widths=FLAGS.num_random_widths,
        distillation=FLAGS.distillation,
        seed=FLAGS.seed,
        **{k: v for k, v in options.items() if v is not None},
    )
    model.grid(FLAGS.width_step)  # says what is wrong before the training
    return model


def report(model, sources) -> None:
    """Calibrates and measures all widths and resolutions."""
    folder = FLAGS.output_dir
    points = model.grid(FLAGS.width_step)
    print(f"Statistics of {len(points)} operating points:")
    inference.calibrate_batch_norm(
        model,
        # Shuffled, and the same in every run
        data.training_batches(
            sources.train,
            min(FLAGS.batch_size, 256),
            model.resolutions[0],
            crop=FLAGS.crop,
            area_range=(FLAGS.min_area, 1.0),
            flip=FLAGS.flip,
            seed=FLAGS.seed,
        ),
        points,
        FLAGS.calibration_images,
    )
    model.save(os.path.join(folder, "model.keras"))
    path = os.path.join(folder, "query_table.json")
    if os.path.exists(path):
        try:
            inference.QueryTable.load(path, model)
        except ValueError as error:
            print(f"{path} is measured anew: {error}")
            os.remove(path)
    table = inference.QueryTable.measure(
        model,
        training_script.evaluation_batches(sources.validation, model.resolutions),
        FLAGS.width_step,
        path=path,
    )
    print("\nbest for its cost  MAdds (M)  accuracy  ms for one image")
    for row in table.front():
        print(
            f"{row.name:17}{row.madds / 1e6:>11.1f}{row.accuracy:>10.3f}"
            f"{row.ms[1]:>18.2f}"
        )
    for cost in ("madds", "ms"):
        analysis.plot_query_table(
            table,
            os.path.join(folder, f"accuracy_{cost}.png"),
            cost,
            title=f"{model.name} on {FLAGS.dataset}",
        )


def main(_):
    training_script.run(
        training.MUTUALNET_VGG if FLAGS.model == "vgg16" else training.MUTUALNET,
        build_model,
        report,
        resolutions=lambda model: model.resolutions[0],
    )


if __name__ == "__main__":
    app.run(main)
