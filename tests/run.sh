#!/bin/sh
# Makes a virtual environment if none is active, installs the package with
# what its tests need, and runs them, two at a time. Arguments go to
# pytest.
set -eu
cd "$(dirname "$0")/.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -d .venv ] || python3 -m venv .venv
    . .venv/bin/activate
fi
python -m pip install --quiet -e '.[test]'
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
exec python -m pytest -n 2 --dist worksteal "$@"
