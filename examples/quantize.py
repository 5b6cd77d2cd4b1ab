r"""Quantizes a trained network, fine-tunes it, and exports it.

    python examples/train_rsnet.py --output_dir=runs/float
    python examples/quantize.py --model=runs/float/model.keras \
        --output_dir=runs/int8

With --scheme=int8, it compares the accuracy and the latency of three LiteRT
files: the float network, the network after post-training quantization (by
litert-quantizer), and the network after quantization-aware training. With
--scheme=2/32 or 2/2 (LQ-Nets), it compares the accuracy and the sizes of the
stored weights.

The flags for data, crops, epochs and --resume are those of the training scripts.
Needs `keras_resadapt[quantization]`.
"""

import os
import shutil

import command_line  # first: it silences TensorFlow
import keras
import numpy as np
import training_script
from absl import app, flags
from tables import print_table

import keras_resadapt
from keras_resadapt import (
    analysis,
    batches,
    export,
    inference,
    quantization,
    timing,
    training,
)
from keras_resadapt.files import write_json

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "model", None, "Required. The `.keras` file of the float network.", required=True
)
flags.DEFINE_enum(
    "scheme",
    "int8",
    ["int8", "2/32", "2/2"],
    "8-bit integers, or the bits of weights and activations of LQ-Nets.",
)
flags.DEFINE_bool(
    "private_ranges",
    True,
    "Use one range per operating point instead of one for all.",
)
flags.DEFINE_integer(
    "calibration_images",
    1024,
    "Number of training images for the initial ranges.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "timed_passes", 50, "Timed passes of each LiteRT signature.", lower_bound=1
)

# A few epochs at a tenth of the usual rate.
INT8 = training.Recipe(epochs=3, learning_rate=0.01, weight_decay=1e-4)
LEARNED = training.Recipe(epochs=10, learning_rate=0.02, weight_decay=5e-5)


def build_model(num_classes: int) -> keras.Model:
    """Quantizes the float network and calibrates its ranges."""
    model = load_float()
    if model.num_classes != num_classes:
        raise app.UsageError(
            "--dataset must have as many classes as --model. Received: --dataset="
            f"{FLAGS.dataset} with {num_classes} classes, --model={FLAGS.model} with "
            f"{model.num_classes} classes"
        )
    quantized = quantization.quantize(model, scheme())
    source = training_script.load_sources().train
    quantization.calibrate_ranges(
        quantized,
        training_script.evaluation_batches(source, model),
        None,
        FLAGS.calibration_images,
    )
    return quantized


def load_float() -> keras.Model:
    """Loads the float network, without its optimizer."""
    return command_line.load_network("model", FLAGS.model, compile=False)


def scheme() -> quantization.Scheme:
    """Returns the scheme of `--scheme`."""
    if FLAGS.scheme == "int8":
        return quantization.Int8(private_ranges=FLAGS.private_ranges)
    bits = [int(b) for b in FLAGS.scheme.split("/")]
    return quantization.LearnedQuantization(*bits, private_ranges=FLAGS.private_ranges)


# === Measuring ===


def accuracies(logits: inference.PointLogits) -> dict[str, float]:
    """Returns the top-1 accuracy at each operating point, by name."""
    return dict(zip(logits.names, logits.correct.mean(axis=1).tolist()))


def collect(model: keras.Model, source) -> inference.PointLogits:
    """Returns the logits of a network at all operating points."""
    return inference.collect_logits(
        model, training_script.evaluation_batches(source, model), verbose=False
    )


def collect_litert(path: str, model: keras.Model, source) -> inference.PointLogits:
    """Returns the logits of a LiteRT file at the operating points of a network."""
    network = inference.LiteRTNetwork(path, num_threads=os.cpu_count())
    points = model.operating_points
    logits, labels = [], []
    for images, batch_labels in training_script.evaluation_batches(source, model):
        logits.append(
            [
                network.logits(images_at(model, images, point), point.name)
                for point in points
            ]
        )
        labels.append(batch_labels)
    return inference.PointLogits(
        np.concatenate(logits, axis=1),
        np.concatenate(labels),
        [row.madds for row in model.profile(points)],
        [point.name for point in points],
    )


def images_at(model: keras.Model, images, point) -> np.ndarray:
    """Returns the images of a batch at an operating point, as float32."""
    return np.asarray(batches.images_at(images, model.resolution_of(point)), "float32")


def agreement(
    first: inference.PointLogits, second: inference.PointLogits
) -> dict[str, tuple[float, float]]:
    """Compares the predictions of two networks on the same images.

    Returns:
        For each operating point, the fraction of the images for which both
        predict the same class, and the largest difference of two
        probabilities.
    """
    same = (first.classes == second.classes).mean(axis=1)
    probabilities = [
        np.array(keras.ops.softmax(logits.logits)) for logits in (first, second)
    ]
    largest = np.abs(probabilities[0] - probabilities[1]).max(axis=(1, 2))
    return {
        name: (float(fraction), float(difference))
        for name, fraction, difference in zip(first.names, same, largest)
    }


def latencies(paths: dict[str, str], model: keras.Model) -> dict[str, dict]:
    """Measures the latency of LiteRT files at batch size 1.

    Args:
        paths: The files, by name.
        model: The network, for its operating points.

    Returns:
        The median milliseconds per image, by the file's name with the number
        of threads, and by operating point.
    """

    def timed(network, point):
        size = model.resolution_of(point)
        images = np.zeros((1, size, size, 3), "float32")
        return lambda: network.logits(images, point.name)

    names = [point.name for point in model.operating_points]
    networks = {
        f"{name}, {threads} thread{'s' if threads > 1 else ''}": (
            inference.LiteRTNetwork(path, num_threads=threads)
        )
        for name, path in paths.items()
        for threads in (1, 2)
    }
    times = timing.median_times(
        {
            (key, point.name): timed(network, point)
            for key, network in networks.items()
            for point in model.operating_points
        },
        FLAGS.timed_passes,
    )
    return {key: {name: times[key, name] for name in names} for key in networks}


def quantize_after_training(
    float_path: str, path: str, model: keras.Model, source
) -> None:
    """Quantizes a float LiteRT file after training, calibrated on a source."""
    from litert_quantizer import qtyping, quantizer, recipe  # optional

    after = quantizer.Quantizer(float_path, recipe.static_wi8_ai8())
    for end in ("INPUT", "OUTPUT"):  # in float, as in the other files
        after.update_quantization_recipe(
            ".*",
            qtyping.TFLOperationName[end],
            algorithm_key=recipe.AlgorithmName.NO_QUANTIZE,
        )
    count = -(-FLAGS.calibration_images // FLAGS.batch_size)
    chosen = list(training_script.evaluation_batches(source, model).take(count))
    # In whole batches. The ranges of several calls are averaged, and the mean
    # range of single images cuts off the activations of half of them.
    ranges = after.calibrate(
        {
            point.name: [
                {"images": images_at(model, images, point)} for images, _ in chosen
            ]
            for point in model.operating_points
        },
        num_threads=os.cpu_count(),
    )
    after.quantize(ranges).export_model(path, overwrite=True)


# === Reports ===


def report(model: keras.Model, sources: training_script.Sources) -> None:
    """Measures what quantization costs and saves; prints and saves the results."""
    plain = load_float()
    validation = sources.validation
    accuracy = {"float": accuracies(collect(plain, validation))}
    untrained = build_model(sources.train.num_classes)
    accuracy["calibrated"] = accuracies(collect(untrained, validation))
    if isinstance(model, keras_resadapt.MutualNet):
        # Training has dropped the statistics and ranges of all other points.
        points = plain.operating_points
        train = training_script.evaluation_batches(sources.train, model)
        inference.calibrate_batch_norm(model, train, points)
        quantization.calibrate_ranges(model, train, points)
    accuracy["trained"] = accuracies(collect(model, validation))
    export.export_saved_model(
        model,
        fresh("served", "1"),
        class_names=sources.train.class_names,
        crop_fraction=FLAGS.crop_fraction,
    )
    print("\nAccuracy of the network:")
    print_by_point(accuracy, "{:.3f}")
    if FLAGS.scheme == "int8":
        table = report_litert(plain, model, sources)
    else:
        table = report_sizes(plain, model)
        plot(plain, accuracy)
    print_table(
        ["file", "kB"],
        [[name, f"{size / 1e3:.1f}"] for name, size in table["bytes"].items()],
    )
    write_json(training_script.path_of("table.json"), {"accuracy": accuracy, **table})


def print_by_point(rows: dict[str, dict[str, float]], form: str) -> None:
    """Prints a table with one column per operating point."""
    names = list(next(iter(rows.values())))
    print_table(
        ["", *names],
        [[row, *map(form.format, values.values())] for row, values in rows.items()],
    )


def plot(plain: keras.Model, accuracy: dict[str, dict[str, float]]) -> None:
    """Plots accuracy against the multiply-adds of the float network."""
    madds = {row.point.name: row.madds for row in plain.profile()}
    analysis.plot_accuracy_cost(
        {
            name: [(point, madds[point], value) for point, value in values.items()]
            for name, values in accuracy.items()
        },
        training_script.path_of("accuracy_cost.png"),
        title=f"{plain.name}, {FLAGS.scheme} bits ({FLAGS.dataset})",
    )


def report_litert(
    plain: keras.Model, model: keras.Model, sources: training_script.Sources
) -> dict:
    """Exports LiteRT files, and compares their accuracy, latency and size."""
    paths = export_litert(plain, model, sources.train)
    logits = {
        name: collect_litert(path, model, sources.validation)
        for name, path in paths.items()
    }
    accuracy = {name: accuracies(values) for name, values in logits.items()}
    same = agreement(logits["int8"], collect(model, sources.validation))
    ms = latencies(paths, model)
    print("Agreement of int8.tflite with the network:")
    print_table(
        ["operating point", "same class", "largest difference of a probability"],
        [
            [name, f"{fraction:.2%}", f"{difference:.3f}"]
            for name, (fraction, difference) in same.items()
        ],
    )
    print("Accuracy of the LiteRT files:")
    print_by_point(accuracy, "{:.3f}")
    print("Milliseconds per image:")
    print_by_point(ms, "{:.2f}")
    analysis.plot_accuracy_cost(
        {
            name: [
                (point, ms[f"{name}, 1 thread"][point], value)
                for point, value in accuracy[name].items()
            ]
            for name in paths
        },
        training_script.path_of("accuracy_ms.png"),
        title=f"{plain.name} in LiteRT, one thread ({FLAGS.dataset})",
        cost="ms",
    )
    return {
        "litert_accuracy": accuracy,
        "litert_agreement": same,
        "ms": ms,
        "bytes": {name: os.path.getsize(path) for name, path in paths.items()},
    }


def export_litert(plain: keras.Model, model: keras.Model, source) -> dict[str, str]:
    """Writes the LiteRT files of the float and the quantized network.

    Returns:
        Their paths by name.
    """
    paths = {
        name: fresh(f"{name}.tflite")
        for name in ("float", "float_shared", "int8", "int8_after_training")
    }
    export.export_litert(plain, paths["float"])
    export.export_litert(plain, paths["float_shared"], share_kernels=True)
    export.export_litert(model, paths["int8"])
    if hasattr(plain, "num_exits"):  # a cascade, which litert-quantizer cannot read
        del paths["int8_after_training"]
    else:
        quantize_after_training(
            paths["float"], paths["int8_after_training"], plain, source
        )
    return paths


def report_sizes(plain: keras.Model, model: keras.Model) -> dict:
    """Packs a network with learned levels, and compares the sizes of the files."""
    packed = quantization.pack(model)
    packed.save(fresh("packed.keras"))
    sizes = {}
    for name, network in (("float", plain), ("packed", packed)):
        weights = fresh(f"{name}.weights.h5")
        network.save_weights(weights)
        sizes[os.path.basename(weights)] = os.path.getsize(weights)
    return {"bytes": sizes}


def fresh(*names: str) -> str:
    """Returns a path in the output folder, and removes what an earlier run left."""
    path = training_script.path_of(*names)
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)
    return path


def main():
    training_script.run(
        training_script.Script(
            INT8 if FLAGS.scheme == "int8" else LEARNED,
            build_model,
            report,
            report_flags=("timed_passes",),
        )
    )


if __name__ == "__main__":
    command_line.run(main)
