#!/usr/bin/env bash
# Makes .venv beside this file if needed, installs the project into it, and runs pytest with the arguments given
# (-rA without any). PYTHON names another interpreter than python3. A second run finds everything in place.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stamp=.venv/.installed
if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "run_tests.sh: Python 3.11 or later is needed; name one with PYTHON=/path/to/python ./run_tests.sh" >&2
        exit 2
    }
    "${PYTHON:-python3}" -m venv .venv
fi
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    echo "run_tests.sh: installing into .venv ..."
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".[images,dotenv,dev]"
    touch "$stamp"
fi

if [ "$#" -eq 0 ]; then
    set -- -rA
fi
exec .venv/bin/python -m pytest "$@"
