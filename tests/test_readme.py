"""The documentation says what the code and the reference run say."""

from __future__ import annotations

import re

import plugin_runs
import pytest

from tests import readme


def test_the_tables_in_the_readme_are_those_of_the_reference_runs() -> None:
    """`python -m tests.readme --write` renews them."""
    text = readme.README.read_text(encoding="utf-8")
    assert readme.renewed(text) == text


def test_how_it_works_fits_in_80_lines() -> None:
    """So that it stays readable."""
    text = readme.README.read_text(encoding="utf-8")
    chapter = text.partition("\n## How it works\n")[2].partition("\n## ")[0]
    assert 20 < len(chapter.splitlines()) <= 80


@pytest.mark.parametrize("package", ["taskqueue_core", "pytest_taskqueue"])
def test_every_file_named_in_the_readme_exists(package: str) -> None:
    """A newcomer who follows it finds each room."""
    text = readme.README.read_text(encoding="utf-8").partition("\n## How it works\n")[2]
    names = set(re.findall(r"\b([a-z_]+\.py)\b", text.partition("\n## Settings")[0]))
    files = {path.name for path in [*readme.ROOT.glob("*/*.py"), *readme.ROOT.glob("pytest_taskqueue/*/*.py")]}
    assert names
    assert names <= files
    assert {path.name for path in (readme.ROOT / package).glob("*.py")} & names


def test_the_tests_in_the_readme_pass_as_they_stand(pytester: pytest.Pytester) -> None:
    """Those of code that uses a queue, with the imports that only the prose has."""
    chapter = readme.README.read_text(encoding="utf-8").partition("\n## Test code that uses a queue\n")[2]
    examples = re.findall(r"```python\n(.*?)```", chapter.partition("\n## ")[0], re.DOTALL)
    assert len(examples) == 3
    pytester.makepyfile("\n".join(["import pytest", "from taskqueue_core import LedgerError", *examples]))
    plugin_runs.run(pytester, "-W", "error").assert_outcomes(passed=4)
