"""The rows of a query table."""

import dataclasses
from collections.abc import Mapping

from keras_resadapt.inference.storing.thresholds import Thresholds
from keras_resadapt.number_checks import check_integer, check_number
from keras_resadapt.points.operating_point import OperatingPoint


@dataclasses.dataclass(frozen=True)
class QueryRow:
    """The accuracy and cost of a network at one operating point.

    Attributes:
        name: The name of the operating point; `"adaptive0"`, ... for a cascade
            with thresholds.
        accuracy: Top-1 accuracy, or the task's score, in [0, 1]: for detection,
            COCO's average precision of masks, or of boxes without masks.
        madds: Mean multiply-adds per image, at least 0.
        ms: Median milliseconds per image on the measured device, at least 0,
            by batch size.
        scores: All scores of a task with several, by name, such as `"box_ap50"`.
            Scores without objects, such as of large ones, are left out.
        resolution, width, exit: The axes of the operating point.
        thresholds: The thresholds of a cascade that stops per image, in [0, 1].

    Raises:
        ValueError: If an attribute is outside its range.
    """

    name: str
    accuracy: float
    madds: float
    ms: dict[int, float]
    resolution: int | None = None
    width: float | None = None
    exit: int | None = None
    thresholds: tuple[float, ...] | None = None
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(
                f"`name` must be a string that is not empty. Received: {self.name!r}"
            )
        if not isinstance(self.ms, Mapping):
            raise ValueError(
                "`ms` must be a dict from batch sizes to milliseconds. "
                f"Received: ms={self.ms!r}"
            )
        ms = {
            check_integer(size, "batch size"): check_number(value, "ms", 0.0)
            for size, value in self.ms.items()
        }
        object.__setattr__(
            self, "accuracy", check_number(self.accuracy, "accuracy", 0.0, 1.0)
        )
        object.__setattr__(self, "madds", check_number(self.madds, "madds", 0.0))
        object.__setattr__(self, "ms", ms)
        if not isinstance(self.scores, Mapping):
            raise ValueError(
                "`scores` must be a dict from names to numbers. "
                f"Received: scores={self.scores!r}"
            )
        scores = {name: check_number(x, name) for name, x in self.scores.items()}
        object.__setattr__(self, "scores", scores)
        if self.thresholds is not None:
            thresholds = Thresholds(self.thresholds).values
            object.__setattr__(self, "thresholds", thresholds)
        OperatingPoint(self.resolution, self.width, self.exit)  # validates them

    @property
    def point(self) -> OperatingPoint:
        """The operating point, for `model.logits`."""
        return OperatingPoint(self.resolution, self.width, self.exit)

    @classmethod
    def from_json(cls, content: dict) -> "QueryRow":
        """Returns a row from what `json` reads of `dataclasses.asdict(row)`.

        Raises:
            ValueError: If the content is not that of a valid row.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        # Older files have no scores.
        if not isinstance(content, dict) or {*content, "scores"} != fields:
            raise ValueError(f"a row must have the keys {sorted(fields)}")
        if not isinstance(content["ms"], dict):
            raise ValueError(f"`ms` must be an object. Received: {content['ms']!r}")
        # The keys of a JSON object are strings.
        ms = {int(size): value for size, value in content["ms"].items()}
        return cls(**{**content, "ms": ms})


def merge_rows(old: tuple[QueryRow, ...], new: list[QueryRow]) -> tuple[QueryRow, ...]:
    """Returns old and new rows, where new rows replace old rows by name.

    A new row keeps the latencies of an old row for other batch sizes.
    """
    measured = {row.name: row.ms for row in old}
    names = {row.name for row in new}
    return (
        *(row for row in old if row.name not in names),
        *(
            dataclasses.replace(row, ms={**measured.get(row.name, {}), **row.ms})
            for row in new
        ),
    )
