r"""Scores any number of images with an exported SavedModel, on a Ray cluster.

    python examples/score_ray.py --savedmodel=served/pets/1 --inputs photos \
        --output=scores/photos --actors=4

The inputs are folders, image files and TFRecord files, on local disks or in object
stores (`s3://bucket/folder`, `gs://...`, all file systems of pyarrow). Results are
Parquet files with one row per image: its key, class, probability, operating point
and multiply-adds, or the error of an image that cannot be read.

The images are divided into blocks. Actors, each with the SavedModel in memory, score
one block after the other and write one file per block. The same command continues
after an interruption, with the blocks that have no file. The block of an actor that
is lost is scored again by another actor, and its file is replaced.

The machines of a cluster need Ray, pyarrow and TensorFlow, and access to the inputs
and to the output. The SavedModel and this script are sent to them.
"""

import argparse
import json
import logging
import math
import os
import socket
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence

import quiet_tensorflow  # noqa: F401, first: it silences TensorFlow

# Ray reads both when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if not any(argument.startswith("--address") for argument in sys.argv):
    # Without a cluster, Ray then listens on 127.0.0.1. Otherwise it listens on all
    # addresses of this machine, whatever `_node_ip_address` is.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import image_blocks
import pyarrow.dataset
import pyarrow.fs
import pyarrow.parquet
import ray
import ray.data
import scoring
from scoring import ScoringError
from tables import print_table

_MANIFEST = "_manifest.json"
_SECONDS_BETWEEN_LINES = 10
# How often a block is tried again after the loss of its actor. The limit ends a run
# in which one block always exhausts the memory of a machine.
_RETRIES = 5

# Machines of a cluster do not have these modules.
for _module in (image_blocks, scoring, sys.modules[__name__]):
    ray.cloudpickle.register_pickle_by_value(_module)


# === The output folder ===


class Output:
    """The folder of the results: a manifest, and one Parquet file per block.

    Files appear completely or not at all.

    Args:
        uri: A local path, or a URI of a file system of pyarrow.
    """

    def __init__(self, uri: str):
        self.uri = uri
        self.file_system, self.folder = scoring.file_system_of("output", uri)

    def open(self, manifest: dict) -> None:
        """Creates the folder, or checks that it belongs to the same run.

        Args:
            manifest: What identifies the run. The values of all keys must be equal.

        Raises:
            ScoringError: If the folder holds another run or other files, or is a file.
        """
        if self.file_system.get_file_info(self.folder).is_file:
            raise ScoringError(f"--output must be a folder. Received: {self.uri}")
        self.file_system.create_dir(self.folder, recursive=True)
        path = f"{self.folder}/{_MANIFEST}"
        if self.file_system.get_file_info(path).is_file:
            with self.file_system.open_input_file(path) as file:
                found = json.loads(file.read())
            different = [
                f"{name} (was {found.get(name)}, is {value})"
                for name, value in manifest.items()
                if found.get(name) != value
            ]
            if different:
                raise ScoringError(
                    "--output must be a new folder or one of the same run. "
                    f"{self.uri} belongs to a run with other values of "
                    f"{', '.join(different)}"
                )
        elif self._list():
            raise ScoringError(
                "--output must be a new folder or one that this script wrote. "
                f"Received: {self.uri}, which holds other files"
            )
        else:
            self._write(path, json.dumps(manifest, indent=2).encode())

    def write_part(self, block: int, rows: Sequence[dict]) -> None:
        """Writes or replaces the results of a block."""
        table = pyarrow.Table.from_pylist(rows, scoring.SCHEMA)
        buffer = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, buffer)
        self._write(self._part(block), buffer.getvalue())

    def finished(self) -> set[int]:
        """Returns the numbers of the blocks whose results are complete."""
        return {
            int(info.base_name.removeprefix("part-").removesuffix(".parquet"))
            for info in self._list()
            # A loss of power can leave an empty file.
            if info.base_name.startswith("part-") and info.size
        }

    def read(self, columns: Sequence[str]) -> pyarrow.Table:
        """Reads some columns of all results."""
        parts = [self._part(block) for block in sorted(self.finished())]
        dataset = pyarrow.dataset.dataset(
            parts, scoring.SCHEMA, filesystem=self.file_system
        )
        return dataset.to_table(list(columns))

    def _part(self, block) -> str:
        return f"{self.folder}/part-{block:08d}.parquet"

    def _list(self) -> list[pyarrow.fs.FileInfo]:
        files = self.file_system.get_file_info(pyarrow.fs.FileSelector(self.folder))
        # Without what a killed run left behind
        return [file for file in files if not file.base_name.startswith(".")]

    def _write(self, path, content) -> None:
        # Readers of Parquet folders ignore names that begin with a dot.
        folder, name = path.rsplit("/", 1)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:12]}"
        with self.file_system.open_output_stream(temporary) as file:
            file.write(content)
        self.file_system.move(temporary, path)


# === Scoring ===


class BlockScorer:
    """An actor that holds a SavedModel, and scores one block per call.

    Args:
        model: A Ray reference to the files of the SavedModel.
        signature: The signature to run.
        sources: The inputs.
        output: The folder of the results.
        batch_size: The number of images per call of the signature.
        feature: The feature of TFRecord files that holds the encoded image.
        cpus: The cores of this actor.
    """

    def __init__(self, model, signature, sources, output, batch_size, feature, cpus):
        threads = max(1, int(cpus))
        self.scorer = scoring.Scorer(ray.get(model[0]), signature, threads)
        self.sources, self.output = sources, output
        self.batch_size, self.feature = batch_size, feature

    def __call__(self, block: dict) -> dict:
        """Scores a block and writes its results.

        Returns:
            The number of the block, of its images and of their errors, and when and
            where it was scored.
        """
        start = time.time()
        source = self.sources[block["source"]]
        rows, keys, images = [], [], []
        for key, image in image_blocks.read_block(source, block, self.feature):
            keys.append(key)
            images.append(image)
            if len(images) == self.batch_size:
                rows += self.scorer.rows(keys, images)
                keys, images = [], []
        rows += self.scorer.rows(keys, images)
        self.output.write_part(block["block"], rows)
        return {
            "block": block["block"],
            "images": len(rows),
            "errors": sum(row["error"] is not None for row in rows),
            "start": start,
            "end": time.time(),
            "actor": f"{socket.gethostname()}:{os.getpid()}",
        }


def score_blocks(
    model: dict[str, bytes],
    blocks: Sequence[dict],
    sources: Sequence[image_blocks.Source],
    output: Output,
    options: argparse.Namespace,
) -> Iterator[dict]:
    """Scores blocks on the actors of a Ray cluster.

    Args:
        model: The files of the SavedModel.
        blocks: The blocks, as `image_blocks.make_blocks` returns them.
        sources: The inputs.
        output: The folder of the results.
        options: The flags.

    Yields:
        What `BlockScorer` returns, for each block when it is finished.

    Raises:
        ScoringError: If a block cannot be scored.
    """
    # The limit of the retries has no other argument yet.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    dataset = ray.data.from_items(list(blocks), override_num_blocks=len(blocks)).map(
        BlockScorer,
        fn_constructor_kwargs={
            "model": [ray.put(model)],  # in a list, which Ray does not look into
            "signature": options.signature,
            "sources": list(sources),
            "output": output,
            "batch_size": options.batch_size,
            "feature": options.record_feature,
            "cpus": options.cpus_per_actor,
        },
        compute=ray.data.ActorPoolStrategy(size=min(options.actors, len(blocks))),
        num_cpus=options.cpus_per_actor,
        num_gpus=options.gpus_per_actor,
        max_restarts=-1,
        max_task_retries=_RETRIES,
    )
    try:
        yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        reason = str(getattr(error, "cause", None) or error).strip().split("\n")[-1]
        raise ScoringError(
            f"a block could not be scored: {reason}. The same command continues with "
            "the blocks that are not finished"
        ) from error


def start_ray(options: argparse.Namespace) -> None:
    """Connects to a Ray cluster, or starts Ray on this machine.

    Raises:
        ScoringError: If this machine has fewer GPUs than the actors need.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if options.address:
        ray.init(options.address, log_to_driver=False, logging_level="ERROR")
        return
    ray.init(
        "local",
        num_cpus=math.ceil(options.actors * options.cpus_per_actor),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    gpus = ray.cluster_resources().get("GPU", 0)
    if gpus < options.actors * options.gpus_per_actor:
        raise ScoringError(
            "--actors times --gpus_per_actor must be at most the number of GPUs of "
            f"this machine, {gpus:g}. Received: --actors={options.actors} "
            f"--gpus_per_actor={options.gpus_per_actor:g}"
        )


# === Reports ===


class Progress:
    """Prints how many blocks are finished, at most every ten seconds.

    Args:
        finished: The number of blocks that were finished before.
        blocks: The number of all blocks.
    """

    def __init__(self, finished: int, blocks: int):
        self.before, self.finished, self.blocks = finished, finished, blocks
        self.images = self.errors = 0
        self.start, self.end = math.inf, -math.inf
        self.printed = time.monotonic()

    def add(self, result: dict) -> None:
        """Adds a finished block."""
        self.finished += 1
        self.images += result["images"]
        self.errors += result["errors"]
        self.start = min(self.start, result["start"])
        self.end = max(self.end, result["end"])
        if time.monotonic() >= self.printed + _SECONDS_BETWEEN_LINES:
            self.printed = time.monotonic()
            print(self, flush=True)

    def __str__(self) -> str:
        text = f"{self.finished:,} of {self.blocks:,} blocks"
        if not self.images:
            return text
        seconds = max(self.end - self.start, 1e-3)
        text += (
            f", {self.images:,} images, {self.errors:,} errors, "
            f"{self.images / seconds:.1f} images per second"
        )
        if self.finished < self.blocks:
            per_block = seconds / (self.finished - self.before)
            left = (self.blocks - self.finished) * per_block
            text += f", {left / 60:.0f} min left"
        return text


def print_summary(output: Output) -> None:
    """Prints where the images exited, and how many have errors."""
    table = output.read(["operating_point", "madds", "error"])
    total, errors = len(table), len(table) - table["error"].null_count
    groups = table.group_by("operating_point").aggregate(
        [([], "count_all"), ("madds", "mean")]
    )
    rows = [
        [
            group["operating_point"],
            f"{group['count_all']:,}",
            f"{group['count_all'] / total:.1%}",
            f"{group['madds_mean'] / 1e6:.1f}",
        ]
        for group in groups.sort_by("operating_point").to_pylist()
        if group["operating_point"] is not None
    ]
    if errors:
        rows.append(["errors", f"{errors:,}", f"{errors / total:.1%}", ""])
    print_table(["operating point", "images", "share", "MAdds (M)"], rows)


# === The script ===


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--savedmodel", required=True, help="the folder of the SavedModel")
    add(
        "--inputs",
        required=True,
        nargs="+",
        help="folders, image files and TFRecord files, as paths or URIs",
    )
    add("--output", required=True, help="a new folder, or the one to continue")
    add(
        "--signature",
        default="adaptive_default_encoded",
        help="a signature for encoded images, such as r48_encoded",
    )
    add("--actors", type=_positive(int), default=1, help="processes with the model")
    add("--batch_size", type=_positive(int), default=64, help="images per call")
    add(
        "--block_size",
        type=_positive(int),
        default=1024,
        help="image files per block; a TFRecord file is a block of its own",
    )
    add("--cpus_per_actor", type=_positive(float), default=1.0)
    add("--gpus_per_actor", type=_positive(float, zero=True), default=0.0)
    add(
        "--record_feature",
        default="image/encoded",
        help="the feature of TFRecord files that holds the encoded image; "
        "'image' for the files of TFDS",
    )
    add(
        "--address",
        help="the address of a Ray cluster, such as 'auto'; by default, Ray is "
        "started on this machine",
    )
    return parser.parse_args(arguments)


def _positive(kind, zero=False):
    """Returns a function that parses a finite number above 0, or from 0 on."""

    def parse_number(text):
        value = kind(text)
        if not (0 < value < math.inf or (zero and value == 0)):
            raise argparse.ArgumentTypeError(f"must be positive. Received: {text}")
        return value

    parse_number.__name__ = kind.__name__  # for messages about other text
    return parse_number


def run(options: argparse.Namespace) -> None:
    """Scores all images that are not scored yet.

    Raises:
        ScoringError: If the user can correct an error.
    """
    model = scoring.read_model(options.savedmodel)
    scoring.check_signature(model, options.signature)
    sources = image_blocks.open_sources(options.inputs)
    files = image_blocks.list_files(sources)
    blocks = image_blocks.make_blocks(files, options.block_size)
    output = Output(options.output)
    output.open(
        {
            "savedmodel": scoring.fingerprint(model),
            "signature": options.signature,
            "files": len(files),
            "inputs": image_blocks.fingerprint(files),
            "block_size": options.block_size,
            "record_feature": options.record_feature,
        }
    )
    finished = output.finished()
    left = [block for block in blocks if block["block"] not in finished]
    progress = Progress(len(finished), len(blocks))
    print(f"{len(files):,} files. {progress} are finished.", flush=True)
    if left:
        try:
            start_ray(options)
            for result in score_blocks(model, left, sources, output, options):
                progress.add(result)
        finally:
            ray.shutdown()
        print(progress)
    print_summary(output)


def main(arguments: Sequence[str] | None = None) -> None:
    try:
        run(parse(arguments))
    except ScoringError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted. The same command continues.")


if __name__ == "__main__":
    main()
