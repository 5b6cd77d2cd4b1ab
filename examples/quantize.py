"""Quantizes a trained network, trains it on, and exports what a phone runs.

    python examples/train_rsnet.py --output_dir=runs/float
    python examples/quantize.py --model=runs/float/model.keras \
        --output_dir=runs/int8

With --scheme=int8: accuracy and milliseconds of the float network, of the
same after post-training quantization (by litert-quantizer), and after
quantization-aware training, all three as LiteRT files. With --scheme=2/32 or
2/2 (LQ-Nets): accuracy and the sizes of what is stored.

The data, crops, epochs and --resume are those of the training scripts. Needs
`keras_resadapt[quantization]`.
"""

import dataclasses
import json
import os
import shutil
import statistics
import time

import keras
import numpy as np
import training_script
from absl import app, flags, logging

# Before keras: it chooses TensorFlow's convolutions.
import keras_resadapt
from keras_resadapt import analysis, export, inference, quantization, training

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "The float network's .keras file.", required=True)
flags.DEFINE_enum("scheme", "int8", ["int8", "2/32", "2/2"], "How.")
flags.DEFINE_bool(
    "private_ranges", True, "A range an operating point, not one for all."
)
flags.DEFINE_integer("calibration_images", 1024, "For the first ranges.")
flags.DEFINE_integer("timed_passes", 50, "Of a LiteRT signature.")

# A few epochs at a tenth of the usual rate.
INT8 = training.Recipe(epochs=3, learning_rate=0.01, weight_decay=1e-4)
LEARNED = training.Recipe(epochs=10, learning_rate=0.02, weight_decay=5e-5)


def build_model(num_classes: int) -> keras.Model:
    """The float network, quantized, with ranges."""
    model = load_float()
    if model.num_classes != num_classes:
        raise app.UsageError(
            f"--model has {model.num_classes} classes, --dataset has {num_classes}."
        )
    quantized = quantization.quantize(model, scheme())
    quantization.calibrate_ranges(
        quantized, calibration_batches(model), None, FLAGS.calibration_images
    )
    return quantized


def load_float() -> keras.Model:
    """The float network, without its optimizer."""
    return keras.models.load_model(FLAGS.model, compile=False)


def scheme() -> quantization.Scheme:
    """What --scheme says."""
    if FLAGS.scheme == "int8":
        return quantization.Int8(private_ranges=FLAGS.private_ranges)
    bits = [int(b) for b in FLAGS.scheme.split("/")]
    return quantization.LearnedQuantization(*bits, private_ranges=FLAGS.private_ranges)


def is_cascade(model) -> bool:
    return isinstance(model, keras_resadapt.models.cascade.Cascade)


def resolutions(model):
    """What the network is evaluated on, in pixels."""
    return model.resolution if is_cascade(model) else model.resolutions


def calibration_batches(model):
    sources = training_script.load_sources(0)
    return training_script.evaluation_batches(sources.train, resolutions(model))


# === Measuring ===


def accuracies(logits: inference.PointLogits) -> dict[str, float]:
    """Top-1 accuracy at each point, by name."""
    return dict(zip(logits.names, logits.correct.mean(axis=1).tolist()))


def accuracies_of(model, batches) -> dict[str, float]:
    return accuracies(inference.collect_logits(model, batches, verbose=False))


def litert_logits(path, model, batches) -> inference.PointLogits:
    """The logits of a LiteRT file at each point of the model."""
    network = inference.LiteRTNetwork(path, num_threads=os.cpu_count())
    points = model.operating_points
    logits, labels = [], []
    for images, batch_labels in batches:
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


def agreement(one, other) -> dict[str, tuple[float, float]]:
    """By point, the share of the pictures of which two networks say the same,
    and the largest difference of two probabilities."""
    same = (one.classes == other.classes).mean(axis=1)
    difference = np.abs(_softmax(one.logits) - _softmax(other.logits))
    return {
        name: (float(share), float(largest))
        for name, share, largest in zip(one.names, same, difference.max(axis=(1, 2)))
    }


def _softmax(logits):
    return np.array(keras.ops.softmax(logits))


def images_at(model, images, point):
    """The images of a batch for a point."""
    size = model.resolution_of(point)
    views = images if isinstance(images, tuple) else (images,)
    (view,) = [view for view in views if view.shape[1] == size]
    return view.numpy().astype("float32")


def latencies(paths, model) -> dict:
    """Median milliseconds an image, by path, threads and point; they take
    turns, so that a machine that slows down slows them all."""
    networks = {
        (path, threads): inference.LiteRTNetwork(path, num_threads=threads)
        for path in paths
        for threads in (1, 2)
    }
    times = {}
    for turn in range(FLAGS.timed_passes + 3):
        for key, network in networks.items():
            for point in model.operating_points:
                size = model.resolution_of(point)
                images = np.zeros((1, size, size, 3), "float32")
                start = time.perf_counter()
                network.logits(images, point.name)
                if turn >= 3:
                    times.setdefault((*key, point.name), []).append(
                        1e3 * (time.perf_counter() - start)
                    )
    return {key: statistics.median(values) for key, values in times.items()}


def quantize_after_training(float_path, path, model, batches) -> None:
    """Post-training quantization of a float LiteRT file."""
    from litert_quantizer import qtyping, quantizer, recipe

    after = quantizer.Quantizer(float_path, recipe.static_wi8_ai8())
    for end in ("INPUT", "OUTPUT"):  # in float, as in the other files
        after.update_quantization_recipe(
            ".*",
            qtyping.TFLOperationName[end],
            algorithm_key=recipe.AlgorithmName.NO_QUANTIZE,
        )
    count = -(-FLAGS.calibration_images // FLAGS.batch_size)
    batches = list(batches.take(count))
    # Whole batches: averaged over single pictures, the ranges of activations
    # are those of half of them, and cut the others off.
    ranges = after.calibrate(
        {
            point.name: [
                {"images": images_at(model, images, point)} for images, _ in batches
            ]
            for point in model.operating_points
        },
        num_threads=os.cpu_count(),
    )
    after.quantize(ranges).export_model(path, overwrite=True)


# === Reports ===


def report(model, sources) -> None:
    """Prints and saves what quantization cost and saved."""
    plain = load_float()
    batches = training_script.evaluation_batches(sources.validation, resolutions(model))
    columns = {"float": accuracies_of(plain, batches)}
    untrained = build_model(sources.train.num_classes)
    columns["calibrated"] = accuracies_of(untrained, batches)
    if hasattr(model, "add_statistics"):  # which training made wrong
        train = training_script.evaluation_batches(sources.train, resolutions(model))
        points = plain.operating_points
        inference.calibrate_batch_norm(model, train, points)
        quantization.calibrate_ranges(model, train, points)
    columns["trained"] = accuracies_of(model, batches)
    table = {"accuracy": columns}
    if FLAGS.scheme == "int8":
        table |= report_litert(plain, model, sources, batches)
    else:
        table |= report_sizes(plain, model)
        madds = {row.point.name: row.madds for row in plain.profile()}
        analysis.plot_accuracy_cost(
            {
                name: [(p, madds[p], value) for p, value in values.items()]
                for name, values in columns.items()
            },
            os.path.join(FLAGS.output_dir, "accuracy_cost.png"),
            title=f"{plain.name}, {FLAGS.scheme} bits ({FLAGS.dataset})",
        )
    export.export_saved_model(
        model,
        fresh("served", "1"),
        class_names=sources.train.class_names,
        crop_fraction=FLAGS.crop_fraction,
    )
    print(f"\n{'accuracy':18}" + "".join(f"{n:>12}" for n in columns["float"]))
    for column, values in columns.items():
        print(f"{column:18}" + "".join(f"{v:12.3f}" for v in values.values()))
    for name, size in table["bytes"].items():
        print(f"{name:24}{size / 1e3:10.1f} kB")
    with open(os.path.join(FLAGS.output_dir, "table.json"), "w") as file:
        json.dump(table, file, indent=1)


def report_litert(plain, model, sources, batches) -> dict:
    """LiteRT files, and what they give and take."""
    paths = {
        name: fresh(f"{name}.tflite")
        for name in ("float", "float_shared", "int8", "int8_after_training")
    }
    export.export_litert(plain, paths["float"])
    export.export_litert(plain, paths["float_shared"], share_kernels=True)
    export.export_litert(model, paths["int8"])
    timed = ["float", "float_shared", "int8"]
    if not is_cascade(plain):  # litert-quantizer wants every exit's features
        quantize_after_training(
            paths["float"],
            paths["int8_after_training"],
            plain,
            training_script.evaluation_batches(sources.train, resolutions(plain)),
        )
        timed.append("int8_after_training")
    logits = {name: litert_logits(paths[name], model, batches) for name in timed}
    same = agreement(
        logits["int8"],
        inference.collect_logits(model, batches, verbose=False),
    )
    for name, (share, largest) in same.items():
        print(
            f"{name}: int8.tflite agrees with the network on {share:.2%}, the "
            f"largest difference of a probability is {largest:.3f}"
        )
    accuracy = {name: accuracies(values) for name, values in logits.items()}
    for name, values in accuracy.items():
        print(
            f"LiteRT {name:20}" + "".join(f"{value:10.3f}" for value in values.values())
        )
    times = latencies([paths[name] for name in timed], model)
    ms = {
        f"{name}, {threads} thread{'s' if threads > 1 else ''}": {
            point.name: times[paths[name], threads, point.name]
            for point in model.operating_points
        }
        for name in timed
        for threads in (1, 2)
    }
    for name, values in ms.items():
        print(
            f"ms an image, {name:30}"
            + "".join(f"{value:8.2f}" for value in values.values())
        )
    analysis.plot_accuracy_cost(
        {
            name: [
                (point, ms[f"{name}, 1 thread"][point], value)
                for point, value in accuracy[name].items()
            ]
            for name in timed
        },
        os.path.join(FLAGS.output_dir, "accuracy_ms.png"),
        title=f"{plain.name} in LiteRT, one thread ({FLAGS.dataset})",
        cost="ms",
    )
    return {
        "litert_accuracy": accuracy,
        "litert_agreement": same,
        "ms": ms,
        "bytes": {name: os.path.getsize(paths[name]) for name in timed},
    }


def report_sizes(plain, model) -> dict:
    """What is stored of a network with learned levels."""
    packed = quantization.pack(model)
    packed.save(fresh("packed.keras"))
    sizes = {}
    for name, network in (("float", plain), ("packed", packed)):
        weights = fresh(f"{name}.weights.h5")
        network.save_weights(weights)
        sizes[os.path.basename(weights)] = os.path.getsize(weights)
    return {"bytes": sizes}


def fresh(*names) -> str:
    """A path in the output folder where nothing is left of an earlier run."""
    path = os.path.join(FLAGS.output_dir, *names)
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)
    return path


def main(_):
    logging.set_verbosity(logging.WARNING)  # the converters say a lot
    recipe = INT8 if FLAGS.scheme == "int8" else LEARNED
    if FLAGS.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=FLAGS.epochs)
    training_script.run(recipe, build_model, report, resolutions=resolutions)


if __name__ == "__main__":
    app.run(main)
