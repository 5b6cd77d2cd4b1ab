r"""Scores images with an exported SavedModel, as an Apache Beam pipeline.

    python examples/score_beam.py --savedmodel=served/pets/1 \
        --inputs 'photos/*.jpg' --output=scores/photos --runner=DirectRunner

Results are Parquet files as those of `score_ray.py`, with one row per image. The
inputs are patterns of image files in any file system of Beam. All other flags go to
Beam, such as `--runner=DataflowRunner --project=... --region=...` for Dataflow,
`--runner=FlinkRunner` or `--runner=SparkRunner`.

The workers need Apache Beam, pyarrow and TensorFlow. This script is sent to them.
The SavedModel must be in a file system that all workers reach.
"""

import argparse
import sys
from collections.abc import Sequence

import quiet_tensorflow  # noqa: F401, first: it silences TensorFlow

# isort: split

import apache_beam as beam
import scoring
from apache_beam.internal.cloudpickle import cloudpickle
from apache_beam.io import fileio, parquetio
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from scoring import ScoringError

# Workers do not have these modules.
for _module in (scoring, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(_module)

# The key of an image, and its content or the reason for which it cannot be read
Image = tuple[str, bytes | Exception]


class SavedModelHandler(ModelHandler):
    """A SavedModel in the workers of `RunInference`.

    Beam's handler for TensorFlow loads models with Keras, which cannot load a
    SavedModel.

    Args:
        savedmodel: The folder of the SavedModel, as a local path or a URI.
        signature: A signature for encoded images.
        batch_size: The largest number of images per call.
    """

    def __init__(self, savedmodel: str, signature: str, batch_size: int):
        super().__init__(max_batch_size=batch_size)
        self.savedmodel, self.signature = savedmodel, signature

    def load_model(self) -> scoring.Scorer:
        """Loads the model, once per worker process."""
        return scoring.Scorer(scoring.read_model(self.savedmodel), self.signature)

    def run_inference(
        self, batch: Sequence[Image], model: scoring.Scorer, inference_args=None
    ) -> list[dict]:
        """Returns the row of each image."""
        return model.rows(*zip(*batch))


def read_image(path: str) -> Image:
    """Returns the path of an image file and its content."""
    try:
        with FileSystems.open(path) as file:
            return path, file.read()
    except (FileNotFoundError, PermissionError) as error:
        return path, error


def run(options: argparse.Namespace, beam_arguments: Sequence[str]) -> None:
    """Runs the pipeline.

    Raises:
        ScoringError: If the SavedModel or the signature is missing, or a pattern
            matches no file.
    """
    scoring.check_signature(scoring.read_model(options.savedmodel), options.signature)
    for pattern in options.inputs:
        if not FileSystems.match([pattern], limits=[1])[0].metadata_list:
            raise ScoringError(f"--inputs must match files. Received: {pattern}")
    if FileSystems.match([f"{options.output}/part*"], [1])[0].metadata_list:
        raise ScoringError(
            f"--output must hold no results of another run. Received: {options.output}"
        )
    if options.batch_size < 1:
        raise ScoringError(
            f"--batch_size must be positive. Received: {options.batch_size}"
        )
    handler = SavedModelHandler(
        options.savedmodel, options.signature, options.batch_size
    )
    with beam.Pipeline(options=PipelineOptions(list(beam_arguments))) as pipeline:
        _ = (
            pipeline
            | beam.Create(options.inputs)
            | fileio.MatchAll(fileio.EmptyMatchTreatment.DISALLOW)
            | beam.Map(lambda match: match.path)
            | beam.Distinct()  # a file may match several patterns
            | beam.Map(read_image)
            | RunInference(handler)
            | parquetio.WriteToParquet(
                f"{options.output}/part", scoring.SCHEMA, file_name_suffix=".parquet"
            )
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--savedmodel", required=True, help="the folder of the SavedModel")
    add("--inputs", required=True, nargs="+", help="patterns of image files")
    add("--output", required=True, help="the folder of the results")
    add(
        "--signature",
        default="adaptive_default_encoded",
        help="a signature for encoded images, such as r48_encoded",
    )
    add("--batch_size", type=int, default=64, help="the most images per call")
    try:
        run(*parser.parse_known_args(arguments))
    except ScoringError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
