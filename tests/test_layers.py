"""Who may import whom, and who may start a thread: read from the source, not from a running program."""

import ast
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import taskqueue_core

ROOT = Path(__file__).parents[1]
CORE, PLUGIN, INPUT = ROOT / "taskqueue_core", ROOT / "pytest_taskqueue", ROOT / "input_new"
OURS = {"taskqueue_core", "pytest_taskqueue", "input_new", "conftest"}
LADDER = [
    "errors",
    "task",
    "points",
    "watch",
    "clock",
    "retry",
    "settings",
    "database",
    "plans",
    "writer",
    "streams",
    "commits",
    "arrows",
    "ledger",
    "inflight",
    "feeder",
    "workers",
    "idle",
    "attempts",
    "admission",
    "closing",
    "queue",
    "pool",
    "cli",
]
FORBIDDEN = {
    *("celery", "redis", "pika", "kombu", "kafka", "confluent_kafka", "gevent", "eventlet", "freezegun", "django"),
    *("sqlalchemy", "peewee", "boto3", "botocore", "minio", "google", "azure"),
}


def files(*folders):
    return sorted(file for folder in folders for file in folder.rglob("*.py") if "__pycache__" not in file.parts)


def ids(file):
    return str(file.relative_to(ROOT))


@cache
def tree(file):
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(file, *, at_the_top_only=False, for_types=True):
    """The (module, name) pairs that a file imports; name is None for a plain import."""
    found = set()

    def look(node):
        if not for_types and isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            found.update((node.module, alias.name) for alias in node.names)
        if at_the_top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        for child in ast.iter_child_nodes(node):
            look(child)

    look(tree(file))
    return found


def packages(file, **kwargs):
    return {module.split(".")[0] for module, _ in imports(file, **kwargs)}


def modules(file):
    """The modules of the core that a file of the core needs to run."""
    names = {
        module.split(".")[1] if "." in module else name
        for module, name in imports(file, for_types=False)
        if module.split(".")[0] == "taskqueue_core"
    }
    return names - {file.stem}


def calls(file):
    """The names of what a file calls."""
    functions = [node.func for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]
    return {getattr(function, "attr", getattr(function, "id", None)) for function in functions}


@pytest.mark.parametrize("file", files(CORE), ids=ids)
def test_the_core_imports_the_standard_library_only(file):
    """Pillow alone, in the processor alone, and not before it is needed."""
    allowed = {"PIL"} if file.name == "processor.py" else set()
    assert packages(file) - set(sys.stdlib_module_names) - {"taskqueue_core"} <= allowed
    assert "PIL" not in packages(file, at_the_top_only=True)


def test_the_core_never_imports_pytest():
    """Nor anything that does."""
    assert not [file for file in files(CORE) if packages(file) & {"pytest", "_pytest", "pytest_taskqueue"}]


def test_only_the_ledger_and_its_database_know_sqlite():
    """Everybody else speaks to the ledger."""
    assert {file.name for file in files(CORE, PLUGIN) if "sqlite3" in packages(file)} <= {"ledger.py", "database.py"}


def test_only_a_few_start_threads():
    """Whoever looks for a thread's origin finds it in one of them."""
    starters = {
        "Thread",
        "Timer",
        "ThreadPoolExecutor",
        "start_new_thread",
        "start_joinable_thread",
        "ProcessPoolExecutor",
    }
    found = {ids(file) for file in files(CORE, PLUGIN) if calls(file) & starters}
    assert {Path(name).as_posix() for name in found} <= {
        "taskqueue_core/futures.py",
        "taskqueue_core/pool.py",
        "taskqueue_core/queue.py",
        "taskqueue_core/workers.py",
        "pytest_taskqueue/arms.py",
        "pytest_taskqueue/hangs.py",
        "pytest_taskqueue/ceiling.py",
        "pytest_taskqueue/load.py",
    }


def test_nothing_runs_an_event_loop():
    """Concurrency is real threads."""
    assert not [
        file for file in files(CORE, PLUGIN, INPUT) if packages(file) & {"asyncio", "selectors", "trio", "anyio"}
    ]


def test_imports_inside_the_core_go_downwards():
    """No circles, and nobody below knows one above, not even through others."""
    graph = {file.stem: modules(file) for file in files(CORE) if file.stem != "__init__"}
    order = [*TopologicalSorter(graph).static_order()]  # raises CycleError
    assert set(order) == set(graph)
    for height, name in enumerate(LADDER):
        above = set(LADDER[height + 1 :])
        assert not reach(graph, name) & above, f"{name} knows a module above it"


def reach(graph, name):
    found, todo = set(), [name]
    while todo:
        for module in graph.get(todo.pop(), ()):
            if module not in found:
                found.add(module)
                todo.append(module)
    return found


def test_the_public_names_are_all_there():
    """And nothing else is public."""
    public = {name for _, name in imports(CORE / "__init__.py")}
    assert set(taskqueue_core.__all__) == public
    assert all(hasattr(taskqueue_core, name) for name in public)


@pytest.mark.parametrize("file", files(PLUGIN) + sorted(ROOT.glob("*.py")), ids=ids)
def test_the_plugin_and_the_scripts_use_public_names_only(file):
    """`from taskqueue_core import ...`, never a module inside it, but for the three that are public: for tests."""
    for module, name in imports(file):
        if module.split(".")[0] == "taskqueue_core":
            assert module == "taskqueue_core"
            assert name in taskqueue_core.__all__


def test_the_verdict_is_statistics_and_nothing_else():
    """It knows neither us nor pytest."""
    for file in files(PLUGIN / "verdict"):
        assert packages(file) <= {*sys.stdlib_module_names, "pytest_taskqueue"}
        assert all("verdict" in module for module, _ in imports(file) if module.startswith("pytest_taskqueue"))


@pytest.mark.parametrize("file", files(INPUT), ids=ids)
def test_the_baseline_imports_nothing_of_ours(file):
    """It is frozen, and runs by itself."""
    assert not packages(file) & OURS
    assert packages(file) - set(sys.stdlib_module_names) <= {"PIL"}


@pytest.mark.parametrize("folder", [CORE, PLUGIN, INPUT, ROOT / "tests"], ids=lambda folder: folder.name)
def test_forbidden_packages_are_nowhere(folder):
    """No broker, no event loop in disguise, no frozen clock, no ORM, no cloud."""
    for file in files(folder) + sorted(ROOT.glob("*.py")):
        assert not packages(file) & FORBIDDEN, file


def test_forbidden_packages_are_no_requirements():
    """Neither of the package nor of its development."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    requirements = ROOT / "requirements.txt"
    if requirements.is_file():
        wanted += requirements.read_text(encoding="utf-8").splitlines()
    names = {line.strip().lower() for line in wanted if line.strip() and not line.startswith("#")}
    assert not [name for name in names for bad in FORBIDDEN if name.startswith(bad)]
