#!/bin/sh
# Creates a virtual environment if none is active, installs the package with what
# its tests need, checks format and lint, and runs the tests in two processes while
# types are checked. Arguments go to pytest: `sh tests/run.sh -m "not slow"`.
set -eu
cd "$(dirname "$0")/.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d .venv ] || python3 -m venv .venv
    . .venv/bin/activate
fi
python -m pip install --quiet -e '.[test]'
python -m ruff check --quiet .
python -m ruff format --check --quiet .
python -m mypy --no-error-summary &
types=$!
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
# glibc keeps freed memory, which saves a few percent of the time.
export MALLOC_TOP_PAD_="${MALLOC_TOP_PAD_:-67108864}"
tests=0
python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@" || tests=$?
wait "$types" || { echo "error: mypy found errors (see above)" >&2; exit 1; }
exit "$tests"
