"""Elements at fixed places: a broken image is replaced and no other image moves."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

# Candidates for the places of one group come from the same group. A group is small,
# because the records of `tfds_source` hold the encoded images.
GROUP = 64


class _Group(NamedTuple):
    """The records of `GROUP` successive places.

    Attributes:
        index: int64 scalar, the number of the group.
        rows: int64 vector, the rows of the group that are read.
        numbers: int64 vector, the number of each record, or -1 for additional records.
        records: The records, batched.
    """

    index: tf.Tensor
    rows: tf.Tensor
    numbers: tf.Tensor
    records: Any

    @property
    def size(self):
        """The number of rows that are read."""
        return tf.size(self.rows, tf.int64)

    def place(self, row):
        return self.index * GROUP + row

    def record(self, row):
        return tf.nest.map_structure(lambda x: x[row], self.records)

    def is_additional(self, number):
        """Whether the record of the element with this number is an additional one."""
        numbers = tf.concat([tf.gather(self.numbers, self.rows), [0]], axis=0)
        return numbers[number] < 0


@dataclasses.dataclass(frozen=True)
class Places:
    """The elements at some places of a sequence of records.

    Place p holds the element of record p. If the image of this record is broken, the
    element is made from the next record that is not broken, in the group of `GROUP`
    places to which p belongs; the first record of the group follows its last. The
    number of the place that `make_element` receives is always p. An element is
    therefore a function of its place and of the records of its group, and does not
    depend on which of the other places are read.

    Broken images are counted without extra work: the number of an element is compared
    with the number that follows the preceding element. A marker at the end of each
    group makes the count complete.

    Attributes:
        records: The records of `source` in any order. A record may not be readable.
        fill: Records that follow if there are too few `records`.
        make_element: Graph function from (place, record) to a structure of tensors
            of static shapes.
        allowed_broken: The largest number of broken images.
        message: The beginning of the error message about broken images.
    """

    records: tf.data.Dataset
    fill: tf.data.Dataset
    make_element: Callable[[tf.Tensor, Any], Any]
    allowed_broken: int
    message: str

    def rows(
        self,
        first: tf.Tensor,
        last: tf.Tensor | int,
        is_read: Callable[[tf.Tensor], tf.Tensor],
    ) -> tf.data.Dataset:
        """Returns the elements, stacked to tensors with a leading dimension.

        Most datasets elements have one row. `rebatch` makes batches of them.

        Args:
            first: int64 scalar, the first place. Records before its group are skipped.
            last: The place after the last one.
            is_read: Graph function from places (int64 vector) to a bool vector that
                selects the places to read.

        Returns:
            `tf.data.Dataset` of the structure of `make_element` with a leading
            dimension. Iterating raises `tf.errors.InvalidArgumentError` if there are
            more than `allowed_broken` broken images.
        """
        group = first // GROUP
        # The records of `fill` have the number -1.
        numbered = self.records.ignore_errors().enumerate().skip(group * GROUP)
        minus_one = tf.data.Dataset.from_tensors(tf.constant(-1, tf.int64)).repeat()
        filled = tf.data.Dataset.zip((minus_one, self.fill.ignore_errors()))
        groups = numbered.concatenate(filled).batch(GROUP).enumerate(group)
        groups = groups.take(-(-last // GROUP) - group)

        def one_group(index, content):
            places = index * GROUP + tf.range(GROUP, dtype=tf.int64)
            selected = (places >= first) & (places < last) & is_read(places)
            rows = tf.boolean_mask(tf.range(GROUP, dtype=tf.int64), selected)
            group = _Group(index, rows, *content)
            return tf.data.Dataset.range(group.size + 1).map(
                lambda number: (number, group)
            )

        attempts = (
            groups.flat_map(one_group)
            .map(self._attempt, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .ignore_errors()
        )
        start = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
        return attempts.scan(start, self._fill)

    def _attempt(self, number, group):
        """Makes the element of a group with a number, or the marker of its end."""
        spec = []

        def element():
            row = group.rows[number]
            made = self.make_element(group.place(row), group.record(row))
            spec.append(tf.nest.map_structure(tf.TensorSpec.from_tensor, made))
            return made

        def marker():
            return tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), spec[0])

        return number, group, tf.cond(number < group.size, element, marker)

    def _fill(self, state, attempt):
        """Puts substitutes before an element if the elements before it are missing."""
        expected, broken = state
        number, group, element = attempt
        is_marker = tf.equal(number, group.size)

        def regular():
            return tf.nest.map_structure(lambda x: x[tf.newaxis], element)

        def filled():
            with tf.control_dependencies([self._check(now_broken)]):
                missing = group.rows[expected:number]
            signature = tf.nest.map_structure(tf.TensorSpec.from_tensor, element)
            substitutes = tf.map_fn(
                lambda row: self._substitute(group, row),
                missing,
                fn_output_signature=signature,
            )
            rows = tf.where(is_marker, 0, 1)
            return tf.nest.map_structure(
                lambda new, x: tf.concat([new, x[tf.newaxis][:rows]], axis=0),
                substitutes,
                element,
            )

        additional = ~is_marker & group.is_additional(number)
        now_broken = broken + number - expected + tf.cast(additional, tf.int64)
        made = tf.cond(
            tf.equal(number, expected) & ~is_marker & ~additional, regular, filled
        )
        return (
            tf.where(is_marker, tf.constant(0, tf.int64), number + 1),
            now_broken,
        ), made

    def _check(self, broken):
        return tf.debugging.Assert(
            broken <= self.allowed_broken, [self.message, broken]
        )

    def _substitute(self, group, row):
        """Returns the element of a place from the next record that is not broken."""
        count = tf.size(group.numbers, tf.int64)
        found = (
            tf.data.Dataset.range(1, count)
            .map(lambda offset: (row + offset) % count)
            .map(lambda other: self.make_element(group.place(row), group.record(other)))
            .ignore_errors()
        )
        nothing = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), found.element_spec
        )
        is_found, element = (
            tf.data.Dataset.zip((tf.data.Dataset.from_tensors(True).repeat(), found))
            .concatenate(tf.data.Dataset.from_tensors((False, nothing)))
            .take(1)
            .get_single_element()
        )
        check = tf.debugging.Assert(
            is_found, [f"None of {GROUP} successive images can be decoded.", row]
        )
        with tf.control_dependencies([check]):
            return tf.nest.map_structure(tf.identity, element)
