"""What the training scripts share: their flags, and the run itself."""

import csv
import dataclasses
import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from absl import app, flags

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import data, training

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "output_dir",
    None,
    "Where everything goes; must not exist yet.",
    required=True,
)
flags.DEFINE_bool("tensorboard", False, "Log for TensorBoard (to install).")
flags.DEFINE_bool("resume", False, "Go on with the run in --output_dir.")

flags.DEFINE_string(
    "dataset", "demo", "'demo', a folder, or the name of a TFDS data set."
)
flags.DEFINE_string("data_dir", None, "Folder of prepared TFDS data sets.")
flags.DEFINE_bool("download", False, "Download a TFDS set that is not there.")
flags.DEFINE_bool("cache", False, "Keep the encoded pictures in memory.")
flags.DEFINE_enum("crop", "random_resized", ["random_resized", "pad"], "Training crop.")
flags.DEFINE_float("min_area", 0.08, "Smallest share of a random crop.")
flags.DEFINE_bool("flip", True, "Random horizontal flips.")
flags.DEFINE_float(
    "crop_fraction", 0.875, "Evaluation: resolution over resized short side."
)

flags.DEFINE_integer("epochs", None, "Default: the paper's recipe.")
flags.DEFINE_integer("batch_size", 256, "Pictures a step, over all replicas.")
flags.DEFINE_float(
    "learning_rate",
    None,
    "At the recipe's batch size, 256 or RANet's 64; default: the recipe's.",
)
flags.DEFINE_float("weight_decay", None, "Default: the recipe's.")
flags.DEFINE_enum(
    "schedule", "recipe", ["recipe", "cosine"], "The paper's, or a cosine."
)
flags.DEFINE_float("warmup_epochs", 0, "Linear warm-up.")
flags.DEFINE_float("label_smoothing", 0, "Label smoothing.")
flags.DEFINE_float("ema", None, "Momentum of an average of the weights.")
flags.DEFINE_integer("gradient_accumulation_steps", None, "Steps an update.")
flags.DEFINE_enum(
    "policy",
    "float32",
    ["float32", "mixed_bfloat16", "mixed_float16"],
    "Precision of the computations.",
)
flags.DEFINE_enum("jit_compile", "auto", ["auto", "on", "off"], "XLA.")
flags.DEFINE_enum("strategy", "none", training.STRATEGIES, "Devices.")
flags.DEFINE_integer("seed", 0, "Of weights, order and crops.")
flags.DEFINE_bool("deterministic", False, "Same weights in every run; slower.")


@dataclasses.dataclass
class Sources:
    """The pictures of a run."""

    train: data.ImageSource
    validation: data.ImageSource
    held_out: data.ImageSource | None = None

    def all(self) -> list[data.ImageSource]:
        """Those that there are."""
        sources = (self.train, self.validation, self.held_out)
        return [source for source in sources if source is not None]


def run(
    recipe: training.Recipe,
    build_model: Callable[[int], keras.Model],
    report: Callable[[keras.Model, Sources], None],
    resolutions: Callable[[keras.Model], int | Sequence[int]],
    crop_per_resolution: bool = False,
    held_out: float = 0.0,
) -> None:
    """Trains, or goes on with a training, and reports.

    Args:
        recipe: The paper's; flags change it.
        build_model: From the number of classes to the network.
        report: Prints and saves what the trained network can do.
        resolutions: What the network is evaluated on, in pixels, the largest
            first.
        crop_per_resolution: Train on a crop a resolution.
        held_out: Share of the training pictures that are kept for the report.
    """
    prepare_output_dir(FLAGS.output_dir, FLAGS.resume)
    recipe = change(recipe)
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.policy)
    if FLAGS.deterministic:
        tf.config.experimental.enable_op_determinism()

    sources = load_sources(held_out)
    steps = sources.train.steps_per_epoch(FLAGS.batch_size)
    with training.strategy_scope(FLAGS.strategy):
        resumed = FLAGS.resume and training.load_last_checkpoint(
            os.path.join(FLAGS.output_dir, "checkpoint")
        )
        if resumed:
            model, epochs = resumed
            print(f"Resuming after epoch {epochs}.")
            if epochs >= recipe.epochs and model.optimizer.use_ema:
                # What the end of `fit` would have done
                model.optimizer.finalize_variable_values(model.trainable_variables)
        else:
            model, epochs = build_model(sources.train.num_classes), 0
            compile_model(model, recipe, steps)
        if epochs < recipe.epochs:
            print(
                f"{model.name}: {model.count_params():,} parameters, "
                f"{steps} steps an epoch. The first step also compiles the "
                "training graph, which can take a minute."
            )
            sizes = resolutions(model)
            largest = sizes if isinstance(sizes, int) else sizes[0]
            train(
                model,
                sources,
                recipe,
                epochs,
                steps,
                sizes if crop_per_resolution else largest,
                sizes,
                crop_per_resolution,
            )
        model.save(os.path.join(FLAGS.output_dir, "model.keras"))
        report(model, sources)

    names = sources.train.class_names
    with open(os.path.join(FLAGS.output_dir, "class_names.txt"), "w") as file:
        file.writelines(f"{name}\n" for name in names)
    samples = os.path.join(FLAGS.output_dir, "samples")
    save_samples(sources.validation, samples)
    for source in sources.all():
        if broken := data.check_pictures(source):
            print(
                f"{len(broken)} pictures of {source.name} could not be "
                f"decoded and were skipped: {', '.join(broken)}"
            )
    print(
        f"\nEverything is in {FLAGS.output_dir}: "
        f"{', '.join(sorted(os.listdir(FLAGS.output_dir)))}"
    )


def load_sources(held_out: float) -> Sources:
    """The data set that the flags name."""
    train_source, validation = (
        data.load_source(
            FLAGS.dataset,
            split,
            FLAGS.data_dir,
            FLAGS.download,
            cache=FLAGS.cache,
        )
        for split in ("train", "validation")
    )
    if not held_out:
        return Sources(train_source, validation)
    rest, kept = train_source.hold_out(held_out)
    data.check_pictures(kept)  # now, and not after the training
    return Sources(rest, validation, kept)


def change(recipe: training.Recipe) -> training.Recipe:
    """The recipe with what the flags change."""
    changes = {
        name: getattr(FLAGS, name)
        for name in ("epochs", "learning_rate", "weight_decay")
        if getattr(FLAGS, name) is not None
    }
    if FLAGS.schedule == "cosine":
        changes["milestones"] = None
    return dataclasses.replace(recipe, warmup_epochs=FLAGS.warmup_epochs, **changes)


def compile_model(model, recipe, steps_per_epoch: int) -> None:
    """Compiles with the recipe's optimizer and a metric a point."""
    kwargs = {"gradient_accumulation_steps": FLAGS.gradient_accumulation_steps}
    if FLAGS.ema is not None:
        kwargs.update(use_ema=True, ema_momentum=FLAGS.ema)
    model.compile(
        recipe.optimizer(steps_per_epoch, FLAGS.batch_size, **kwargs),
        loss=keras_resadapt.losses.CrossEntropy(FLAGS.label_smoothing),
        metrics=["accuracy"],
        jit_compile={"auto": "auto", "on": True, "off": False}[FLAGS.jit_compile],
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


def train(
    model,
    sources,
    recipe,
    initial_epoch,
    steps,
    train_sizes,
    sizes,
    crop_per_resolution,
) -> None:
    """Fits, with a checkpoint and a CSV row an epoch."""
    batches = data.training_batches(
        sources.train,
        FLAGS.batch_size,
        train_sizes,
        crop=FLAGS.crop,
        area_range=(FLAGS.min_area, 1.0),
        flip=FLAGS.flip,
        crop_per_resolution=crop_per_resolution,
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
            keras.callbacks.TensorBoard(os.path.join(FLAGS.output_dir, "tensorboard"))
        )
    try:
        model.fit(
            batches,
            epochs=recipe.epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps,
            validation_data=evaluation_batches(sources.validation, sizes),
            callbacks=callbacks,
        )
    except tf.errors.InvalidArgumentError:
        for source in sources.all():
            data.check_pictures(source)  # names what cannot be decoded
        raise
    except KeyboardInterrupt:
        raise SystemExit(
            "\nInterrupted. The same command with --resume goes on from the "
            "last finished epoch."
        )


def evaluation_batches(source, resolutions):
    """A source's pictures as the papers evaluate them."""
    return data.evaluation_batches(
        source,
        FLAGS.batch_size,
        resolutions,
        crop_fraction=FLAGS.crop_fraction,
    )


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
