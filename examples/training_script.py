"""Shared parts of the training scripts: flags, and the steps of a run."""

import contextlib
import csv
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence

import command_line
import keras
import numpy as np
import shared_flags
import tensorflow as tf
from absl import app, flags
from worker_exits import connect, exiting_alone, exiting_when_stuck, failing_alone

from keras_resadapt import RSNet, data, losses, training
from keras_resadapt.files import atomic_path, read_json, write_json

FLAGS = flags.FLAGS

# === The run ===
flags.DEFINE_string(
    "output_dir",
    None,
    "Required. The folder for all results, which must not exist yet.",
    required=True,
)
flags.DEFINE_bool("resume", False, "Continue the run in --output_dir.")
flags.DEFINE_integer(
    "checkpoint_every",
    None,
    "Steps between two checkpoints of an epoch. A checkpoint is also written after "
    "every epoch, and when SIGTERM or SIGUSR1 ends the script, with exit code 75.",
    lower_bound=1,
)
flags.DEFINE_bool(
    "tensorboard", False, "Write logs for TensorBoard, which must be installed."
)
flags.DEFINE_enum(
    "strategy",
    "none",
    training.STRATEGIES,
    "'mirrored': all GPUs of this machine. 'multi_worker': all processes that "
    "TF_CONFIG or a SLURM step describes, each of which runs the same command.",
)
flags.DEFINE_float(
    "worker_timeout",
    training.WORKER_TIMEOUT,
    "Seconds that a worker waits for another one. It must exceed the time in which "
    "one of them compiles, validates or saves.",
    lower_bound=1.0,
)
flags.DEFINE_enum(
    "jit_compile", "auto", ["auto", "on", "off"], "Compilation of the step by XLA."
)
flags.DEFINE_bool(
    "deterministic",
    False,
    "End with the same weights in every run: deterministic operations, one at a time.",
)

# === Data ===
flags.DEFINE_bool("download", False, "Download a TFDS data set that is missing.")
flags.DEFINE_bool("cache", False, "Keep the encoded images in memory.")
flags.DEFINE_string(
    "data_service",
    None,
    "grpc://HOST:PORT of the dispatcher of a tf.data service, whose workers make the "
    "training batches. Their order differs in every run, and a lost worker of the "
    "service takes the rest of its batches with it.",
)
flags.DEFINE_enum("crop", "random_resized", ["random_resized", "pad"], "Training crop.")
flags.DEFINE_float(
    "min_area",
    0.08,
    "Smallest area of a random resized crop, as a fraction of the image.",
    lower_bound=0.0,
    upper_bound=1.0,
)
flags.DEFINE_bool("flip", True, "Random horizontal flips.")
flags.DEFINE_integer(
    "batch_size", 256, "Images per step, over all replicas.", lower_bound=1
)
flags.DEFINE_integer(
    "seed", 0, "Seed of weights, order and crops.", lower_bound=0, upper_bound=2**31 - 1
)

# === Optimization ===
flags.DEFINE_integer(
    "epochs", None, "Number of epochs; the recipe's by default.", lower_bound=1
)
flags.DEFINE_float(
    "learning_rate",
    None,
    "Learning rate at the recipe's batch size (256; 64 for RANet on CIFAR; 1024 or "
    "512 for MutualNet); the recipe's by default.",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "weight_decay", None, "Weight decay; the recipe's by default.", lower_bound=0.0
)
flags.DEFINE_enum(
    "schedule", "recipe", ["recipe", "cosine"], "Schedule of the learning rate."
)
flags.DEFINE_float(
    "warmup_epochs",
    None,
    "Epochs of linear warm-up; the recipe's by default.",
    lower_bound=0.0,
)
flags.DEFINE_float(
    "label_smoothing", 0.0, "Label smoothing.", lower_bound=0.0, upper_bound=1.0
)
flags.DEFINE_float(
    "ema",
    None,
    "Momentum of an exponential moving average of the weights.",
    lower_bound=0.0,
    upper_bound=1.0,
)
flags.DEFINE_integer(
    "gradient_accumulation_steps", None, "Steps per weight update.", lower_bound=2
)
flags.DEFINE_enum(
    "policy",
    "float32",
    ["float32", "mixed_bfloat16", "mixed_float16"],
    "Precision of the computations.",
)

# Flags that may change when a run is resumed: they change neither the network
# nor the data nor the optimizer. `--epochs` is checked separately.
RESUMABLE = {
    *("output_dir", "resume", "checkpoint_every", "tensorboard", "strategy"),
    "jit_compile",
    *("deterministic", "download", "cache", "data_dir", "data_service", "epochs"),
    "worker_timeout",
}

# Flags in which the workers of one training may differ: they have folders and disks
# of their own.
OF_WORKER = {"output_dir", "data_dir", "download", "cache"}


@dataclasses.dataclass(frozen=True)
class Sources:
    """The images of a run."""

    train: data.ImageSource
    validation: data.ImageSource
    held_out: data.ImageSource | None = None

    def all(self) -> list[data.ImageSource]:
        """Returns the sources that the run has."""
        sources = (self.train, self.validation, self.held_out)
        return [source for source in sources if source is not None]


@dataclasses.dataclass(frozen=True)
class Script:
    """What distinguishes one training script from another.

    Attributes:
        recipe: The recipe of the paper, which flags change.
        build_model: Builds the network for a number of classes.
        report: Measures the trained network, and prints and saves the results.
        crop_per_resolution: Whether to train on one crop per resolution.
        held_out: The fraction of the training images that is kept for the
            report, in [0, 1).
        report_flags: The names of flags that only the report reads.
        load_source: Opens a split of the data set; by default as the flags say.
        make_training_batches: Makes the training batches from a source, the network,
            and the epoch and the step of the first batch (`initial_epoch` and
            `initial_step`); by default those of classification.
        make_evaluation_batches: Makes the batches of a source for the network and the
            `shard` of a worker; by default those of classification.
        task_defaults: Whether to train with the loss and the metrics of the network's
            task, instead of those of classification.
    """

    recipe: training.Recipe
    build_model: Callable[[int], keras.Model]
    report: Callable[[keras.Model, Sources], None]
    crop_per_resolution: bool = False
    held_out: float = 0.0
    report_flags: Sequence[str] = ()
    load_source: Callable = shared_flags.load_source
    make_training_batches: Callable | None = None
    make_evaluation_batches: Callable | None = None
    task_defaults: bool = False


def run(script: Script) -> None:
    """Trains a network or resumes its training, and reports.

    Raises:
        app.UsageError: If flags contradict each other, the data set, or the
            run that is resumed.
    """
    recipe = change(script.recipe)
    if FLAGS.deterministic and FLAGS.data_service is not None:
        raise app.UsageError(
            "--deterministic does not apply with --data_service, whose order differs "
            "in every run."
        )
    if FLAGS.deterministic:
        training.enable_determinism()
    # Several workers connect before TensorFlow runs an operation.
    scope = functools.partial(
        training.strategy_scope, FLAGS.strategy, FLAGS.worker_timeout
    )
    connect(scope)
    with (
        training.Preemption() as preemption,
        exiting_alone(),
        shared_output_dir(FLAGS.output_dir, FLAGS.resume),
    ):
        check_workers(recipe)
        sources = training.run_on_all(lambda: prepare(script, recipe))
        check_data_of_workers(sources)
        last = training.find_last_checkpoint(path_of("checkpoint"))
        with scope():
            with failing_alone():
                state = start_or_resume(script, recipe, sources.train, last)
                if state.epoch < recipe.epochs:
                    train(state, sources, recipe, script, preemption)
            model = state.model
            training.run_on_chief(lambda: save_model(model))
        if not training.is_chief():
            return
        if training.num_workers() > 1:
            # The others have finished, and can no longer evaluate together.
            model, scope = load_model(), contextlib.nullcontext
        with scope():
            script.report(model, sources)
        save_extras(sources)
        print_summary(sources)


def prepare(script: Script, recipe: training.Recipe) -> Sources:
    """Checks the flags, sets seed and precision, and opens the data set."""
    check_flags(recipe, script.report_flags)
    keras.utils.set_random_seed(FLAGS.seed)
    keras.config.set_dtype_policy(FLAGS.policy)
    return load_sources(script.held_out, script.load_source)


def save_model(model: keras.Model) -> None:
    """Writes the trained network to `model.keras`."""
    with atomic_path(path_of("model.keras")) as temporary:
        model.save(temporary)


def load_model() -> keras.Model:
    """Returns the trained network, read from `model.keras`."""
    return keras.saving.load_model(path_of("model.keras"))


# === Several workers ===


@contextlib.contextmanager
def shared_output_dir(folder: str, resume: bool) -> Iterator[None]:
    """Lets the chief create and lock the folder, which all workers must see."""
    with contextlib.ExitStack() as stack:
        training.run_on_chief(lambda: stack.enter_context(output_dir(folder, resume)))
        training.check_shared_folder(folder)
        yield


def check_workers(recipe: training.Recipe) -> None:
    """Raises a `ValueError` unless all workers have the same code and flags."""
    if training.num_workers() == 1:
        return
    values = flag_values(recipe)
    training.check_workers_agree(
        training.software_properties()
        | {f"--{name}": values[name] for name in values.keys() - OF_WORKER}
    )
    if FLAGS.batch_size % training.num_workers():
        raise app.UsageError(
            f"--batch_size must be a multiple of the {training.num_workers()} workers. "
            f"Received: --batch_size={FLAGS.batch_size}"
        )


def check_data_of_workers(sources: Sources) -> None:
    """Raises a `ValueError` unless all workers have the same data."""
    training.check_workers_agree(
        {
            f"the data set of {name}": f"{source.name} ({source.num_examples} images, "
            f"digest of the classes {digest_of(source.class_names)})"
            for name, source in (
                ("training", sources.train),
                ("validation", sources.validation),
            )
        }
    )


def digest_of(names: Sequence[str]) -> str:
    """Returns a short digest of a list of names."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]


# === The output folder ===


def path_of(*names: str) -> str:
    """Returns the path of a file in `--output_dir`."""
    return os.path.join(FLAGS.output_dir, *names)


@contextlib.contextmanager
def output_dir(folder: str, resume: bool) -> Iterator[None]:
    """Creates and locks the folder of a run while the block runs.

    A folder that the block created is removed again if the block fails before
    the first checkpoint, so that the corrected command can be repeated.
    """
    existed = os.path.exists(folder)
    if existed and not resume:
        raise app.UsageError(
            f"--output_dir={folder} exists. Name another folder, or add --resume "
            "to continue the run in it."
        )
    os.makedirs(folder, exist_ok=True)
    try:
        with training.lock_folder(folder):
            yield
    except BaseException:
        checkpoints = os.path.join(folder, "checkpoint")
        if not existed and not (os.path.isdir(checkpoints) and os.listdir(checkpoints)):
            for name in ("flags.json", "log.csv"):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(folder, name))
            with contextlib.suppress(OSError):
                os.rmdir(checkpoints)
            with contextlib.suppress(OSError):  # it has other files
                os.rmdir(folder)
        raise


def flag_values(recipe: training.Recipe) -> dict[str, object]:
    """Returns the values of the script's flags, with the recipe's epochs."""
    values = {flag.name: flag.value for flag in command_line.own_flags()}
    return {**values, "epochs": recipe.epochs}


def check_flags(recipe: training.Recipe, report_flags: Sequence[str]) -> None:
    """Compares the flags with those of the run that is resumed.

    Raises:
        app.UsageError: If a flag that defines the network, the data or the
            optimizer has another value than in the run, or if `--epochs` is
            smaller than in the run.
    """
    if not os.path.exists(path_of("flags.json")):
        return
    before = read_json(path_of("flags.json"))
    workers = before.get("workers", 1)
    if workers != training.num_workers() and training.is_chief():
        print(
            f"The number of workers of the run changes from {workers} to "
            f"{training.num_workers()}. Its weights therefore differ by rounding."
        )
    changed = [
        f"--{name}={_text(before[name])} became --{name}={_text(value)}"
        for name, value in flag_values(recipe).items()
        if name in before
        and name not in RESUMABLE
        and name not in report_flags
        and before[name] != value
    ]
    if before["epochs"] > recipe.epochs:
        changed.append(
            f"--epochs={before['epochs']} became --epochs={recipe.epochs} "
            "(it may only grow)"
        )
    if changed:
        raise app.UsageError(
            "--resume continues a run with the same network, data and optimizer. "
            f"Received: {'; '.join(changed)}"
        )


def _text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def save_flags(recipe: training.Recipe) -> None:
    """Writes the flags of the run to `flags.json`."""
    values = flag_values(recipe) | {"workers": training.num_workers()}
    write_json(path_of("flags.json"), values)


def save_extras(sources: Sources) -> None:
    """Writes the names of the classes, and images to try the network on."""
    if sources.train.class_names:
        data.write_class_names(path_of("class_names.txt"), sources.train.class_names)
    kinds = (data.SegmentationSource, data.DetectionSource)
    if not isinstance(sources.validation, kinds):
        save_samples(sources.validation, path_of("samples"))


def save_samples(source: data.ImageSource, folder: str, count: int = 4) -> None:
    """Writes the first images of a source to files, to try the network on."""
    os.makedirs(folder, exist_ok=True)
    for i, (image, label, _) in enumerate(source.dataset.take(count)):
        name = source.class_names[int(label)].replace(" ", "_")
        if not source.encoded:
            image = tf.io.encode_png(image)
        kind = "png" if image.numpy()[:4] == b"\x89PNG" else "jpg"
        path = os.path.join(folder, f"{i}_{os.path.basename(name)}.{kind}")
        tf.io.write_file(path, image)


def print_summary(sources: Sources) -> None:
    """Prints which images were skipped, and the files of the run."""
    for source in sources.all():
        if broken := data.check_pictures(source):
            print(
                f"{len(broken)} images of {source.name} could not be decoded and "
                f"were skipped: {', '.join(broken)}"
            )
    names = set(os.listdir(FLAGS.output_dir)) - {"lock.json"}
    print(f"\nAll results are in {FLAGS.output_dir}: {', '.join(sorted(names))}")


# === Data ===


def load_sources(
    held_out: float = 0.0, load_source: Callable = shared_flags.load_source
) -> Sources:
    """Opens the data set that the flags name.

    Args:
        held_out: The fraction of the training images to hold out, in [0, 1).
        load_source: Opens a split of the data set.
    """
    train_source, validation = (
        load_source(split, download=FLAGS.download, cache=FLAGS.cache)
        for split in ("train", "validation")
    )
    # Now, and not after the training. Keras then knows the number of batches.
    data.check_pictures(validation)
    kept = None
    if held_out:
        train_source, kept = train_source.hold_out(held_out)
        data.check_pictures(kept)
    if train_source.num_examples < FLAGS.batch_size:
        raise app.UsageError(
            "--batch_size must not be larger than the training set of "
            f"{train_source.num_examples} images. "
            f"Received: --batch_size={FLAGS.batch_size}"
        )
    return Sources(train_source, validation, kept)


def training_batches(
    source: data.ImageSource, resolutions: int | Sequence[int], **kwargs
) -> tf.data.Dataset:
    """Returns the batches that the flags describe.

    Args:
        source: The training images.
        resolutions: One resolution, or several, in pixels.
        **kwargs: Further arguments of `data.training_batches`.
    """
    return data.training_batches(
        source,
        resolutions=resolutions,
        **{"batch_size": FLAGS.batch_size, **kwargs},
        crop=FLAGS.crop,
        area_range=(FLAGS.min_area, 1.0),
        flip=FLAGS.flip,
        seed=FLAGS.seed,
    )


def classification_batches(
    source: data.ImageSource, model: keras.Model, crop_per_resolution: bool, **position
) -> tf.data.Dataset:
    """Returns the batches on which a classifier is trained."""
    sizes = shared_flags.resolutions_of(model)
    largest = sizes if isinstance(sizes, int) else sizes[0]
    return training_batches(
        source,
        sizes if crop_per_resolution else largest,
        crop_per_resolution=crop_per_resolution,
        **position,
    )


def evaluation_batches(source: data.ImageSource, model: keras.Model) -> tf.data.Dataset:
    """Returns the images of a source at the resolutions of a network."""
    return shared_flags.evaluation_batches(
        source, FLAGS.batch_size, shared_flags.resolutions_of(model)
    )


def validation_batches(
    source: data.ImageSource, model: keras.Model, **kwargs
) -> tf.data.Dataset:
    """Returns the images of a source on which `fit` validates a classifier.

    Args:
        source: The validation images.
        model: The network.
        **kwargs: Further arguments of `data.evaluation_batches`.
    """
    sizes = shared_flags.resolutions_of(model)
    if not isinstance(model, RSNet) and not isinstance(sizes, int):
        sizes = sizes[0]
    return shared_flags.evaluation_batches(source, FLAGS.batch_size, sizes, **kwargs)


# === Training ===


def change(recipe: training.Recipe) -> training.Recipe:
    """Returns the recipe with the changes of the flags."""
    changes = {
        name: getattr(FLAGS, name)
        for name in ("epochs", "learning_rate", "weight_decay", "warmup_epochs")
        if getattr(FLAGS, name) is not None
    }
    if FLAGS.schedule == "cosine":
        changes["milestones"] = None
    return dataclasses.replace(recipe, **changes)


def start_or_resume(
    script: Script,
    recipe: training.Recipe,
    source: data.ImageSource,
    checkpoint: str | None,
) -> training.TrainingState:
    """Loads a checkpoint, or builds and compiles the network without one."""
    steps = source.steps_per_epoch(FLAGS.batch_size)
    if checkpoint is None:
        model = script.build_model(source.num_classes)
        compile_model(model, recipe, steps, script.task_defaults)
        return training.TrainingState(model)
    state = training.load_checkpoint(checkpoint)
    if training.is_chief():
        print(f"Resuming {state.resume_text}.")
    model = state.model
    if state.epoch < recipe.epochs:
        extend_schedule(model, recipe, steps)
    elif model.optimizer.use_ema:
        # As at the end of `fit`
        model.optimizer.finalize_variable_values(model.trainable_variables)
    return state


def compile_model(
    model: keras.Model,
    recipe: training.Recipe,
    steps_per_epoch: int,
    task_defaults: bool = False,
) -> None:
    """Compiles with the recipe's optimizer, and metrics per operating point."""
    kwargs = {"gradient_accumulation_steps": FLAGS.gradient_accumulation_steps}
    if FLAGS.ema is not None:
        kwargs.update(use_ema=True, ema_momentum=FLAGS.ema)
    model.compile(
        recipe.optimizer(steps_per_epoch, FLAGS.batch_size, **kwargs),
        loss=None if task_defaults else losses.CrossEntropy(FLAGS.label_smoothing),
        metrics=None if task_defaults else ["accuracy"],
        jit_compile={"auto": "auto", "on": True, "off": False}[FLAGS.jit_compile],
    )


def extend_schedule(model: keras.Model, recipe: training.Recipe, steps: int) -> None:
    """Replaces the schedule of a resumed network where `--epochs` has grown."""
    model.optimizer.learning_rate = recipe.schedule(
        steps, FLAGS.batch_size, FLAGS.gradient_accumulation_steps or 1
    )


def forget_epochs(log_path: str, finished: int) -> None:
    """Drops the rows of epochs that a killed run logged but did not save."""
    if not os.path.exists(log_path):
        return
    with open(log_path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    with atomic_path(log_path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows(
            [header, *(row for row in rows if int(row[0]) < finished)]
        )


class StopAtDivergence(keras.callbacks.Callback):
    """Raises a `ValueError` after an epoch that made weights infinite or NaN.

    A single step with such a loss is not an error: in half precision, the optimizer
    leaves it out.
    """

    def on_epoch_end(self, epoch, logs=None):
        if np.isfinite(logs["loss"]):
            return
        for weight in self.model.trainable_variables:
            if not np.isfinite(weight).all():
                raise ValueError(
                    f"The training has diverged in epoch {epoch + 1}: {weight.path} is "
                    "not finite. Start again with a smaller --learning_rate or more "
                    f"--warmup_epochs. Received: loss={logs['loss']}"
                )


def train(
    state: training.TrainingState,
    sources: Sources,
    recipe: training.Recipe,
    script: Script,
    preemption: training.Preemption,
) -> None:
    """Fits from a state on, with checkpoints and a row of `log.csv` per epoch."""
    model = state.model
    steps = sources.train.steps_per_epoch(FLAGS.batch_size)
    batches, validation = distributed_batches(state, sources, script)
    training.run_on_chief(lambda: save_flags(recipe))
    if training.is_chief():
        print(
            f"{model.name}: {model.count_params():,} parameters, {steps} steps per "
            "epoch. The first step also compiles the training graph, which can take "
            "a minute."
        )
    checkpoint = training.Checkpoint(
        path_of("checkpoint"), FLAGS.checkpoint_every, state, preemption
    )
    try:
        with exiting_when_stuck(FLAGS.worker_timeout, FLAGS.data_service) as callbacks:
            model.fit(
                batches,
                epochs=recipe.epochs,
                initial_epoch=state.epoch,
                steps_per_epoch=steps,
                validation_data=validation,
                callbacks=[
                    StopAtDivergence(),
                    *logging_callbacks(state.epoch),
                    checkpoint,
                    *callbacks,
                ],
                verbose="auto" if training.is_chief() else 0,
            )
    except tf.errors.InvalidArgumentError:
        for source in sources.all():
            data.check_pictures(source)  # names what cannot be decoded
        raise
    except KeyboardInterrupt:
        raise SystemExit(
            "\nInterrupted. The same command with --resume continues "
            f"{checkpoint.resume_text}."
        ) from None


def distributed_batches(
    state: training.TrainingState, sources: Sources, script: Script
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Returns the batches of training and of validation for this worker."""
    model = state.model
    make_batches = script.make_training_batches or functools.partial(
        classification_batches, crop_per_resolution=script.crop_per_resolution
    )
    evaluate_on = script.make_evaluation_batches or validation_batches
    steps = sources.train.steps_per_epoch(FLAGS.batch_size)
    epoch, step = state.data_position(steps)
    position = {"initial_epoch": epoch, "initial_step": step}

    def training_shard(shard):
        batches = make_batches(sources.train, model, shard=shard, **position)
        if FLAGS.data_service is None:
            return batches
        return data.through_service(batches, FLAGS.data_service)

    def validation_shard(shard):
        return evaluate_on(sources.validation, model, shard=shard)

    return (
        training.distribute(training_shard, FLAGS.batch_size),
        training.distribute(validation_shard, FLAGS.batch_size),
    )


def logging_callbacks(initial_epoch: int) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that log, without the rows of epochs to repeat."""
    if not training.is_chief():
        return []
    forget_epochs(path_of("log.csv"), initial_epoch)
    result = [keras.callbacks.CSVLogger(path_of("log.csv"), append=initial_epoch > 0)]
    if FLAGS.tensorboard:
        result.append(keras.callbacks.TensorBoard(path_of("tensorboard")))
    return result
