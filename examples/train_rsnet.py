"""Trains an RS-Net: one network for several resolutions.

By default on the package's own demo set, in minutes on a CPU:

    python examples/train_rsnet.py --output_dir=runs/demo

The paper's ImageNet recipe (section 4.1), on the GPUs of one machine:

    python examples/train_rsnet.py --dataset=imagenet2012 --data_dir=DIR \
        --model=resnet50 --resolutions=224,192,160,128,96 \
        --strategy=mirrored --output_dir=runs/rsnet50

or any folder with train/CLASS/*.jpg and val/CLASS/*.jpg. An interrupted run
goes on with `--resume` from its last finished epoch.
"""

import csv
import dataclasses
import functools
import json
import os

from absl import app
from absl import flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import analysis
from keras_resadapt import data
from keras_resadapt import inference
from keras_resadapt import training

import keras
import tensorflow as tf

MODELS = {
    # For the demo set and other small pictures
    "tiny": functools.partial(
        keras_resadapt.RSNet18,
        depths=(1, 1, 1),
        filters=(16, 32, 64),
        stem="small",
        name="rsnet_tiny",
    ),
    "resnet18": keras_resadapt.RSNet18,
    "resnet34": keras_resadapt.RSNet34,
    "resnet50": keras_resadapt.RSNet50,
    "resnet101": keras_resadapt.RSNet101,
    "mobilenetv2": keras_resadapt.RSMobileNetV2,
}

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "output_dir", None, "Where everything goes; must not exist yet.",
    required=True,
)
flags.DEFINE_bool("tensorboard", False, "Log for TensorBoard (to install).")
flags.DEFINE_bool("resume", False, "Go on with the run in --output_dir.")

flags.DEFINE_enum("model", "tiny", list(MODELS), "The network.")
flags.DEFINE_list("resolutions", ["48", "32", "16"], "In pixels.")
flags.DEFINE_enum(
    "distillation", "full", keras_resadapt.losses.DISTILLATIONS, "As RSNet's."
)
flags.DEFINE_enum(
    "preprocessing", "imagenet", ["imagenet", "unit"], "As RSNet's."
)
flags.DEFINE_enum(
    "stem", None, ["small", "imagenet"], "Default: the network's own."
)
flags.DEFINE_list("depths", None, "ResNet: blocks a stage, likewise.")
flags.DEFINE_list("filters", None, "ResNet: channels a stage, likewise.")
flags.DEFINE_float("alpha", None, "MobileNetV2: width multiplier.")
flags.DEFINE_string(
    "init_from", None, "A PyTorch checkpoint (needs torch) to start from."
)

flags.DEFINE_string(
    "dataset", "demo", "'demo', a folder, or the name of a TFDS data set."
)
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data sets.")
flags.DEFINE_bool("download", False, "Download a TFDS set that is not there.")
flags.DEFINE_bool("cache", False, "Keep the encoded pictures in memory.")
flags.DEFINE_enum(
    "crop", "random_resized", ["random_resized", "pad"], "Training crop."
)
flags.DEFINE_float(
    "min_area", 0.08, "Smallest share of a random crop (appendix E)."
)
flags.DEFINE_bool(
    "crop_per_resolution", False, "One crop a resolution (table 6)."
)
flags.DEFINE_bool("flip", True, "Random horizontal flips.")
flags.DEFINE_float(
    "crop_fraction", 0.875, "Evaluation: resolution over resized short side."
)

flags.DEFINE_integer("epochs", None, "Default: the paper's recipe.")
flags.DEFINE_integer("batch_size", 256, "Pictures a step, over all replicas.")
flags.DEFINE_float(
    "learning_rate", None, "At 256 pictures a step; default: the recipe's."
)
flags.DEFINE_float("weight_decay", None, "Default: the recipe's.")
flags.DEFINE_float("warmup_epochs", 0, "Linear warm-up.")
flags.DEFINE_float("label_smoothing", 0, "Label smoothing.")
flags.DEFINE_float("ema", None, "Momentum of an average of the weights.")
flags.DEFINE_integer(
    "gradient_accumulation_steps", None, "Steps an update."
)
flags.DEFINE_enum(
    "policy", "float32", ["float32", "mixed_bfloat16", "mixed_float16"],
    "Precision of the computations.",
)
flags.DEFINE_enum("jit_compile", "auto", ["auto", "on", "off"], "XLA.")
flags.DEFINE_enum("strategy", "none", training.STRATEGIES, "Devices.")
flags.DEFINE_integer("seed", 0, "Of weights, order and crops.")
flags.DEFINE_bool("deterministic", False, "Same weights in every run; slower.")


def recipe() -> training.Recipe:
    """The paper's recipe for the network, with what the flags change."""
    paper = (
        training.RSNET_MOBILENET_V2
        if FLAGS.model == "mobilenetv2"
        else training.RSNET_RESNET
    )
    changes = {
        name: getattr(FLAGS, name)
        for name in ("epochs", "learning_rate", "weight_decay")
        if getattr(FLAGS, name) is not None
    }
    return dataclasses.replace(
        paper, warmup_epochs=FLAGS.warmup_epochs, **changes
    )


def build_model(num_classes: int) -> keras_resadapt.RSNet:
    """The network that the flags describe."""
    architecture = {"stem": FLAGS.stem, "alpha": FLAGS.alpha}
    for name in ("depths", "filters"):
        values = getattr(FLAGS, name)
        architecture[name] = values and [int(value) for value in values]
    model = MODELS[FLAGS.model](
        num_classes,
        [int(r) for r in FLAGS.resolutions],
        FLAGS.distillation,
        FLAGS.preprocessing,
        **{k: v for k, v in architecture.items() if v is not None},
    )
    if FLAGS.init_from:
        keras_resadapt.convert.load_pytorch_state_dict(model, FLAGS.init_from)
    return model


def compile_model(model, steps_per_epoch: int) -> None:
    """Compiles with the recipe's optimizer and a metric a resolution."""
    kwargs = {"gradient_accumulation_steps": FLAGS.gradient_accumulation_steps}
    if FLAGS.ema is not None:
        kwargs.update(use_ema=True, ema_momentum=FLAGS.ema)
    model.compile(
        recipe().optimizer(steps_per_epoch, FLAGS.batch_size, **kwargs),
        loss=keras_resadapt.losses.CrossEntropy(FLAGS.label_smoothing),
        metrics=["accuracy"],
        jit_compile={"auto": "auto", "on": True, "off": False}[
            FLAGS.jit_compile
        ],
    )


def prepare_output_dir(output_dir: str, resume: bool) -> None:
    """Makes the folder; an existing one needs `--resume`."""
    if os.path.exists(output_dir) and not resume:
        raise app.UsageError(
            f"--output_dir={output_dir} exists: name another folder, or add "
            "--resume to go on with the run in it."
        )
    os.makedirs(output_dir, exist_ok=True)


def forget_epochs(log_path: str, finished: int) -> None:
    """Drops the rows of epochs that a killed run logged but did not save."""
    if not os.path.exists(log_path):
        return
    with open(log_path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    with open(log_path, "w", newline="") as file:
        csv.writer(file).writerows(
            [header, *(row for row in rows if int(row[0]) < finished)]
        )


def train(model, train_source, validation_source, initial_epoch, steps):
    """Fits, with a checkpoint and a CSV row an epoch."""
    batches = data.training_batches(
        train_source,
        FLAGS.batch_size,
        model.resolutions if FLAGS.crop_per_resolution else model.resolutions[0],
        crop=FLAGS.crop,
        area_range=(FLAGS.min_area, 1.0),
        flip=FLAGS.flip,
        crop_per_resolution=FLAGS.crop_per_resolution,
        seed=FLAGS.seed,
        initial_epoch=initial_epoch,
    )
    log_path = os.path.join(FLAGS.output_dir, "log.csv")
    forget_epochs(log_path, initial_epoch)
    callbacks = [
        keras.callbacks.CSVLogger(log_path, append=initial_epoch > 0),
        training.EpochCheckpoint(os.path.join(FLAGS.output_dir, "checkpoint")),
    ]
    if FLAGS.tensorboard:
        callbacks.append(
            keras.callbacks.TensorBoard(
                os.path.join(FLAGS.output_dir, "tensorboard")
            )
        )
    try:
        model.fit(
            batches,
            epochs=recipe().epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps,
            validation_data=evaluation_batches(validation_source, model),
            callbacks=callbacks,
        )
    except tf.errors.InvalidArgumentError:
        for source in (train_source, validation_source):
            data.check_pictures(source)  # names what cannot be decoded
        raise
    except KeyboardInterrupt:
        raise SystemExit(
            "\nInterrupted. The same command with --resume goes on from the "
            "last finished epoch."
        )


def evaluation_batches(source, model):
    return data.evaluation_batches(
        source,
        FLAGS.batch_size,
        model.resolutions,
        crop_fraction=FLAGS.crop_fraction,
    )


def report(model, validation_source) -> list[dict]:
    """Prints and saves the table and the plot of accuracy against cost."""
    logs = model.evaluate(
        evaluation_batches(validation_source, model),
        verbose=0,
        return_dict=True,
    )
    latency = inference.measure_latency(model)
    table = [
        {
            "resolution": row.point.resolution,
            "madds": row.madds,
            "params": row.params,
            "accuracy": logs[f"{row.point.name}_accuracy"],
            "ms_per_image": latency[row.point.name],
            "ensemble_weight": float(weight),
        }
        for row, weight in zip(model.profile(), model.ensemble_weights)
    ]
    print("\nresolution  MAdds (M)  params (k)  accuracy  ms an image  alpha")
    for row in table:
        print(
            f"{row['resolution']:>10}{row['madds'] / 1e6:>11.1f}"
            f"{row['params'] / 1e3:>12.1f}{row['accuracy']:>10.3f}"
            f"{row['ms_per_image']:>13.2f}{row['ensemble_weight']:>7.2f}"
        )
    if "ensemble_accuracy" in logs:
        print(f"ensemble of all, accuracy {logs['ensemble_accuracy']:.3f}")
    with open(os.path.join(FLAGS.output_dir, "table.json"), "w") as file:
        json.dump(table, file, indent=1)
    analysis.plot_accuracy_cost(
        {
            model.name: [
                (f"r{row['resolution']}", row["madds"], row["accuracy"])
                for row in table
            ]
        },
        os.path.join(FLAGS.output_dir, "accuracy_cost.png"),
        title=f"One network, {len(table)} costs ({FLAGS.dataset})",
    )
    return table


def save_samples(source, folder: str, count: int = 4) -> None:
    """Writes some pictures of a source as files, to try the network on."""
    os.makedirs(folder, exist_ok=True)
    for i, (picture, label, _) in enumerate(source.dataset.take(count)):
        name = source.class_names[int(label)].replace(" ", "_")
        if not source.encoded:
            picture = tf.io.encode_png(picture)
        kind = "png" if picture.numpy()[:4] == b"\x89PNG" else "jpg"
        path = os.path.join(folder, f"{i}_{os.path.basename(name)}.{kind}")
        tf.io.write_file(path, picture)


def main(_):
    prepare_output_dir(FLAGS.output_dir, FLAGS.resume)
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.policy)
    if FLAGS.deterministic:
        tf.config.experimental.enable_op_determinism()

    train_source, validation_source = (
        data.load_source(
            FLAGS.dataset, split, FLAGS.data_dir, FLAGS.download,
            cache=FLAGS.cache,
        )
        for split in ("train", "validation")
    )
    steps = train_source.steps_per_epoch(FLAGS.batch_size)
    with training.strategy_scope(FLAGS.strategy):
        resumed = FLAGS.resume and training.load_last_checkpoint(
            os.path.join(FLAGS.output_dir, "checkpoint")
        )
        if resumed:
            model, epochs = resumed
            print(f"Resuming after epoch {epochs}.")
        else:
            model, epochs = build_model(train_source.num_classes), 0
            compile_model(model, steps)
        if epochs < recipe().epochs:
            print(
                f"{model.name}: {model.count_params():,} parameters, "
                f"{steps} steps an epoch. The first step also compiles the "
                "training graph, which can take a minute."
            )
            train(model, train_source, validation_source, epochs, steps)
        model.save(os.path.join(FLAGS.output_dir, "model.keras"))
        report(model, validation_source)

    with open(os.path.join(FLAGS.output_dir, "class_names.txt"), "w") as file:
        file.writelines(f"{name}\n" for name in train_source.class_names)
    save_samples(validation_source, os.path.join(FLAGS.output_dir, "samples"))
    for source in (train_source, validation_source):
        if broken := data.check_pictures(source):
            print(
                f"{len(broken)} pictures of {source.name} could not be "
                f"decoded and were skipped: {', '.join(broken)}"
            )
    print(f"\nEverything is in {FLAGS.output_dir}: model.keras, table.json, "
          "accuracy_cost.png, log.csv")


if __name__ == "__main__":
    app.run(main)
