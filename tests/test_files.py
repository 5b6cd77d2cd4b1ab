"""Atomic writes and JSON files."""

import os

import pytest

from keras_resadapt.files import atomic_path, read_json, write_json


def test_atomic_path_replaces_the_file_at_the_end(tmp_path):
    path = tmp_path / "last.keras"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert os.path.dirname(temporary) == str(tmp_path)
        assert temporary.endswith(".keras")
        with open(temporary, "w") as file:
            file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["last.keras"]


def test_atomic_path_keeps_the_file_where_writing_fails(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_path(path) as temporary:
        with open(temporary, "w") as file:
            file.write("half of the new")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.json"]


def test_two_writers_do_not_share_a_temporary_name(tmp_path):
    path = tmp_path / "table.json"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        for temporary in (first, second):
            with open(temporary, "w") as file:
                file.write(temporary)
    assert path.read_text() == first  # the last one to finish


def test_atomic_path_checks_the_path_first(tmp_path):
    with pytest.raises(FileNotFoundError, match="existing folder"):
        with atomic_path(tmp_path / "missing" / "file.json"):
            raise AssertionError("the block must not run")
    with pytest.raises(IsADirectoryError, match="not a folder"):
        with atomic_path(tmp_path):
            raise AssertionError("the block must not run")


def test_json_returns_what_was_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a path without a folder
    content = {"names": ["é", "b"], "values": [1, 0.5, None, True]}
    write_json("file.json", content)
    assert read_json("file.json") == content
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json("file.json", [float("nan")])
    assert read_json("file.json") == content


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"accuracy": NaN}',
        b'{"accuracy": -Infinity}',
        b'{"accuracy": 1e999}',
        b'{"accuracy": ',
        b'{"name": "\xff"}',
        b"9" * 10_000,
        b"",
    ],
    ids=["deep", "nan", "infinity", "overflow", "cut", "bytes", "digits", "empty"],
)
def test_bad_json_is_refused_with_the_name_of_the_file(tmp_path, content):
    path = tmp_path / "untrusted.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="untrusted.json"):
        read_json(path)


def test_json_has_a_size_limit_and_is_a_regular_file(tmp_path):
    path = tmp_path / "large.json"
    path.write_text("[" + "0," * 100 + "0]")
    assert len(read_json(path)) == 101
    with pytest.raises(ValueError, match="large.json.*larger than 100 bytes"):
        read_json(path, max_bytes=100)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "missing.json")
