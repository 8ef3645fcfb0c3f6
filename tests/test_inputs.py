"""The original queue and its inputs: they do what the rest of the project relies on."""

import ast
import json
import os
import re
import subprocess
import sys
import threading
import zlib
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest

from pytest_taskqueue.input_new import baseline_task_queue_v2, generate_tasks
from pytest_taskqueue.input_new.baseline_task_queue_v2 import BaselineTaskQueue

try:
    from PIL import Image, ImageChops
except ImportError:
    Image = None

LONG = 30.0  # seconds: a limit that only a hang reaches
BASELINE = Path(baseline_task_queue_v2.__file__)
GENERATOR = Path(generate_tasks.__file__)
SAMPLE = BASELINE.with_name("sample_tasks_small.json")
NOTES = re.findall(
    r"^## (.+?)$.*?```python\n(.*?)```\n\n```text\n(.*?)```",
    BASELINE.with_name("notes.md").read_text(encoding="utf-8"),
    flags=re.DOTALL | re.MULTILINE,
)

needs_pillow = pytest.mark.skipif(Image is None, reason="Pillow is not installed")


def run(*arguments, cwd, without_pillow=False):
    """Run Python in `cwd`, never the checkout; temporary files go there too; `without_pillow` hides Pillow from it."""
    env = dict(os.environ, PYTHONWARNINGS="error", TMPDIR=str(cwd), TEMP=str(cwd), TMP=str(cwd))
    if without_pillow:
        hidden = cwd / "hidden"
        hidden.mkdir(exist_ok=True)
        (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['PIL'] = None\n", encoding="utf-8")
        env["PYTHONPATH"] = str(hidden)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


class Gated(BaselineTaskQueue):
    """Every task is held inside `process` until the gate opens."""

    def __init__(self, **options):
        self.started = threading.Event()
        self.gate = threading.Event()
        self.processed = []
        super().__init__(**options)

    def process(self, task):
        self.started.set()
        assert self.gate.wait(LONG)
        self.processed.append(task["number"])
        return Path("nowhere")


@pytest.fixture
def gated():
    queue = Gated(workers=4)
    yield queue
    queue.gate.set()
    queue.stop()


@pytest.fixture
def make_queue(tmp_path):
    queues = []

    def make(**options):
        queue = BaselineTaskQueue(**{"round_trip": 0, "output": tmp_path / "output", **options})
        queues.append(queue)
        return queue

    yield make
    for queue in queues:
        queue.stop()


# --- the generator ----------------------------------------------------------------------------------------------------


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def test_same_seed_gives_the_same_tasks_and_images(tmp_path):
    """Two runs with one seed agree to the byte, in the answer and on disk."""
    first = generate_tasks.generate(tmp_path / "a", count=50, images=3, seed=11)
    second = generate_tasks.generate(tmp_path / "b", count=50, images=3, seed=11)
    assert first == second
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert (tmp_path / "a" / "tasks.json").read_bytes() == (tmp_path / "b" / "tasks.json").read_bytes()


def test_another_seed_gives_other_tasks_and_images(tmp_path):
    """The seed reaches both the choice of tasks and every single image."""
    first = generate_tasks.generate(tmp_path / "a", count=50, images=3, seed=11)
    second = generate_tasks.generate(tmp_path / "b", count=50, images=3, seed=12)
    assert first != second
    others = contents(tmp_path / "b")
    assert all(data != others[name] for name, data in contents(tmp_path / "a").items())


def test_an_image_does_not_depend_on_how_many_follow(tmp_path):
    """`--images 4` supplies the very images that a run of 16 would."""
    generate_tasks.generate(tmp_path / "few", count=1, images=2)
    generate_tasks.generate(tmp_path / "many", count=1, images=5)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert few == {name: many[name] for name in few}
    assert len(set(many.values())) == 5


def test_tasks_are_unique_by_key_and_share_content(tmp_path):
    """1,000 tasks have 1,000 keys but only 16 x 4 contents, and all of them name images that exist."""
    tasks = generate_tasks.generate(tmp_path)
    assert len({task["idempotency_key"] for task in tasks}) == len(tasks) == 1000
    pairs = {(task["image_key"], task["variant"]) for task in tasks}
    assert len(pairs) == 64
    assert {variant for _, variant in pairs} == {"320x240", "200x200", "128x128", "64x64"}
    assert {key for key, _ in pairs} == set(contents(tmp_path))
    assert tasks[123]["idempotency_key"] == "task-000123"
    assert all(task.keys() == {"image_key", "variant", "params", "idempotency_key"} for task in tasks)


def test_tasks_on_disk_are_the_tasks_returned(tmp_path):
    """tasks.json holds what generate() returned."""
    tasks = generate_tasks.generate(tmp_path, count=20, images=2)
    assert json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8")) == tasks


@needs_pillow
def test_images_are_photo_like(tmp_path):
    """640x480 RGB JPEGs of the size a photo has."""
    names = generate_tasks.make_images(tmp_path, images=16, seed=7)
    assert names == [f"photo-{number:03d}.jpg" for number in range(16)]
    for name in names:
        assert 60_000 <= (tmp_path / name).stat().st_size <= 120_000
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (640, 480), "RGB")


@pytest.mark.parametrize("options", [{"count": 0}, {"images": 0}, {"count": -1}])
def test_generate_refuses_nothing_to_do(tmp_path, options):
    """A count below 1 is a ValueError that names it, and nothing is written."""
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        generate_tasks.generate(tmp_path / "out", **options)
    assert not (tmp_path / "out" / "tasks.json").exists()


@pytest.mark.parametrize("arguments", [["--count", "0"], ["--images", "0"], ["--seed", "x"], ["--count", "many"]])
def test_generator_script_refuses_bad_arguments(tmp_path, arguments):
    """Bad arguments are a usage error, status 2, and write nothing."""
    result = run(GENERATOR, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert arguments[0] in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_generator_script_runs_from_any_directory(tmp_path):
    """The script writes where it is told, relative to the working directory, and says what."""
    result = run(GENERATOR, "--out", "made", "--count", "12", "--images", "2", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"wrote 12 tasks to {Path('made', 'tasks.json')}" in result.stdout
    assert len(baseline_task_queue_v2.read_tasks(tmp_path / "made" / "tasks.json")) == 12
    assert len(contents(tmp_path / "made")) == 2


def test_generator_script_names_a_folder_it_cannot_write(tmp_path):
    """A file in the way is one usage error with its name, no traceback."""
    (tmp_path / "taken").write_text("", encoding="utf-8")
    result = run(GENERATOR, "--out", "taken", cwd=tmp_path)
    assert result.returncode == 2
    assert "'taken'" in result.stderr
    assert "Traceback" not in result.stderr


# --- the sample -------------------------------------------------------------------------------------------------------


def test_sample_has_eight_tasks_two_of_them_duplicates():
    """The small sample is 8 well-formed tasks without idempotency keys; two repeat an earlier one."""
    tasks = baseline_task_queue_v2.read_tasks(SAMPLE)
    assert len(tasks) == 8
    assert all(task.keys() == {"image_key", "variant", "params"} for task in tasks)
    pairs = Counter((task["image_key"], task["variant"]) for task in tasks)
    assert sorted(pairs.values()) == [1, 1, 1, 1, 2, 2]
    assert {variant for _, variant in pairs} <= set(generate_tasks.VARIANTS)


@needs_pillow
def test_four_generated_images_supply_the_sample(tmp_path):
    """`generate_tasks.py --images 4` makes every image the sample names."""
    names = generate_tasks.make_images(tmp_path, images=4, seed=7)
    assert {task["image_key"] for task in baseline_task_queue_v2.read_tasks(SAMPLE)} == set(names)


# --- the original queue -----------------------------------------------------------------------------------------------


def test_baseline_imports_nothing_of_ours():
    """The original stands alone: standard library, and Pillow when it is there."""
    found = set()
    for node in ast.walk(ast.parse(BASELINE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module)
    roots = {name.partition(".")[0] for name in found}
    assert "threading" in roots
    assert roots <= sys.stdlib_module_names | {"PIL"}
    assert roots.isdisjoint({"importlib", "runpy"})


def test_baseline_does_every_task(tmp_path, make_queue):
    """All handles are done, without an error, and every output has the name of its key."""
    tasks = generate_tasks.generate(tmp_path, count=40, images=3)
    queue = make_queue(source=tmp_path / "images")
    handles = [queue.submit(task) for task in tasks]
    assert queue.join(LONG)
    assert [handle.error for handle in handles] == [None] * 40
    assert all(handle.wait(0) for handle in handles)
    assert [handle.output.stem for handle in handles] == [task["idempotency_key"] for task in tasks]
    assert {path.stem for path in (tmp_path / "output").iterdir()} == {task["idempotency_key"] for task in tasks}


@needs_pillow
def test_thumbnails_have_the_right_size(tmp_path, make_queue):
    """An output is a JPEG that fits the variant and keeps the proportions of its source."""
    [name] = generate_tasks.make_images(tmp_path, images=1, seed=7)
    queue = make_queue(source=tmp_path)
    handles = {variant: queue.submit({"image_key": name, "variant": variant}) for variant in generate_tasks.VARIANTS}
    assert queue.join(LONG)
    sizes = {}
    for variant, handle in handles.items():
        with Image.open(handle.output) as image:
            image.load()
            assert image.format == "JPEG"
            sizes[variant] = image.size
    assert sizes == {"320x240": (320, 240), "200x200": (200, 150), "128x128": (128, 96), "64x64": (64, 48)}


@needs_pillow
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_thumbnail_bytes_are_the_documented_ones(tmp_path, make_queue, mode):
    """The work is fixed to the byte for every kind of image, because another queue is compared with it."""
    [name] = generate_tasks.make_images(tmp_path, images=1, seed=7)
    with Image.open(tmp_path / name) as photo:
        photo.convert(mode).save(tmp_path / "cat.tiff")
    queue = make_queue(source=tmp_path)
    handle = queue.submit({"image_key": "cat.tiff", "variant": "200x100"})
    assert handle.wait(LONG)
    image = Image.open(BytesIO((tmp_path / "cat.tiff").read_bytes()))
    image.thumbnail((200, 100))
    expected = BytesIO()
    (image if image.mode == "RGB" else image.convert("RGB")).save(expected, "JPEG", quality=85)
    assert handle.output.read_bytes() == expected.getvalue()
    assert handle.output.name == "cat_200x100.jpg"


@needs_pillow
def test_a_thumbnail_shows_its_own_source(tmp_path, make_queue):
    """Outputs are not mixed up: each is close to a downscaled version of its own image only."""
    names = generate_tasks.make_images(tmp_path, images=3, seed=7)
    queue = make_queue(source=tmp_path)
    handles = [queue.submit({"image_key": name, "variant": "64x64"}) for name in names]
    assert queue.join(LONG)
    small = []
    for name in names:
        with Image.open(tmp_path / name) as image:
            small.append(image.resize((64, 48)))
    for number, handle in enumerate(handles):
        with Image.open(handle.output) as output:
            distances = [sum(ImageChops.difference(output, other).convert("L").tobytes()) for other in small]
        assert distances.index(min(distances)) == number


def test_a_handle_is_not_done_before_its_task(gated):
    """wait() says False while the task runs, True afterwards, and hands over the output."""
    handle = gated.submit({"number": 1})
    assert gated.started.wait(LONG)
    assert not handle.wait(0.01)
    gated.gate.set()
    assert handle.wait(LONG)
    assert (handle.error, handle.output) == (None, Path("nowhere"))


def test_a_handle_is_set_after_the_lock_was_released(monkeypatch):
    """Whoever is told "done" by the only worker finds the global lock free."""
    held = []

    class Watched(baseline_task_queue_v2.Handle):
        def __init__(self, task):
            super().__init__(task)
            self.done = WatchedEvent()

    class WatchedEvent(threading.Event):
        def set(self):
            held.append(queue._lock.locked())
            super().set()

    monkeypatch.setattr(baseline_task_queue_v2, "Handle", Watched)
    queue = Gated(workers=1)
    queue.gate.set()
    handles = [queue.submit({"number": 1}), queue.submit({})]  # the second one fails: it has no number
    assert queue.join(LONG)
    queue.stop()
    assert held == [False, False]
    assert isinstance(handles[1].error, KeyError)


def test_tasks_run_one_at_a_time_and_in_order(gated):
    """The global lock lets one worker work; the oldest task goes first."""
    handles = [gated.submit({"number": number}) for number in range(20)]
    assert gated.started.wait(LONG)
    assert gated.pending() == 19  # four workers, and only one holds a task
    gated.gate.set()
    assert all(handle.wait(LONG) for handle in handles)
    assert gated.processed == list(range(20))


def test_submit_does_not_wait_for_the_work(gated):
    """While a task is held under the global lock, submit() still returns: the list has no bound."""
    gated.submit({"number": 0})
    assert gated.started.wait(LONG)
    for number in range(1, 2001):
        gated.submit({"number": number})
    assert gated.pending() == 2000


def test_many_clients_lose_nothing(gated):
    """Sixteen threads submit at once; every task is done exactly once."""
    gated.gate.set()
    together = threading.Barrier(16)

    def client(number):
        together.wait(LONG)
        for offset in range(25):
            assert gated.submit({"number": number * 25 + offset}).wait(LONG)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert gated.join(LONG)
    assert sorted(gated.processed) == list(range(400))


def test_an_error_is_kept_on_the_handle(tmp_path, make_queue, capfd):
    """A failed task is done, carries its exception, prints nothing, and the next one still runs."""
    [name] = generate_tasks.make_images(tmp_path, images=1, seed=7)
    queue = make_queue(source=tmp_path, workers=1)
    failed = queue.submit({"image_key": "no-such.jpg", "variant": "64x64"})
    missing = queue.submit({"variant": "64x64"})
    good = queue.submit({"image_key": name, "variant": "64x64"})
    assert queue.join(LONG)
    assert isinstance(failed.error, FileNotFoundError)
    assert isinstance(missing.error, KeyError)
    assert failed.output is missing.output is None
    assert good.error is None
    assert good.output.is_file()
    assert capfd.readouterr() == ("", "")


def test_duplicates_run_twice(gated):
    """The original knows no idempotency: it is one of the defects it is kept for."""
    gated.gate.set()
    for _ in range(2):
        gated.submit({"number": 5, "idempotency_key": "same"})
    assert gated.join(LONG)
    assert gated.processed == [5, 5]


def test_join_keeps_its_deadline(gated):
    """join() gives up when its time is over, and says True once all is done, also when nothing was submitted."""
    assert gated.join(0)
    handle = gated.submit({"number": 1})
    assert not gated.join(0.01)
    gated.gate.set()
    assert gated.join(LONG)
    assert handle.wait(0)


def test_stop_drops_what_waits_and_leaves_no_thread(gated):
    """stop() lets the current task end, drops the others, ends every worker; join() then says the truth at once."""
    handles = [gated.submit({"number": number}) for number in range(10)]
    assert gated.started.wait(LONG)
    stopper = threading.Thread(target=gated.stop)
    stopper.start()
    assert not gated.join(LONG)
    assert gated.pending() == 0
    gated.gate.set()
    stopper.join(LONG)
    assert not stopper.is_alive()
    assert gated.processed == [0]
    assert [handle.wait(0) for handle in handles] == [True] + [False] * 9
    assert not any(thread.is_alive() for thread in gated._threads)
    assert not gated.join(LONG)


def test_stop_wakes_who_waits_in_join(gated, monkeypatch):
    """A join() without a deadline ends when stop() drops the tasks it waits for: they will never be done."""
    answers, waiting, wait = [], threading.Event(), gated._finished.wait

    def told_wait(timeout=None):
        waiting.set()  # stop() needs the mutex, which is only free once this thread really waits
        return wait(timeout)

    monkeypatch.setattr(gated._finished, "wait", told_wait)
    for number in range(2):
        gated.submit({"number": number})
    assert gated.started.wait(LONG)
    joiner = threading.Thread(target=lambda: answers.append(gated.join()), daemon=True)
    joiner.start()
    assert waiting.wait(LONG)
    stopper = threading.Thread(target=gated.stop)
    stopper.start()
    joiner.join(LONG)
    gated.gate.set()
    stopper.join(LONG)
    assert answers == [False]


def test_stop_ends_idle_workers_and_may_be_repeated():
    """Workers that wait for a task are woken and ended; submit() says that the queue is stopped."""
    queue = BaselineTaskQueue(workers=8)
    names = {thread.name for thread in queue._threads if thread.is_alive()}
    queue.stop()
    queue.stop()
    assert len(names) == 8
    assert not any(thread.is_alive() for thread in queue._threads)
    with pytest.raises(RuntimeError, match="stopped"):
        queue.submit({"image_key": "cat.jpg", "variant": "64x64"})


@pytest.mark.parametrize("pillow", [pytest.param(True, marks=needs_pillow), False], ids=["thumbnail", "transform"])
def test_round_trip_is_spent_once_for_the_get_and_once_for_the_put(tmp_path, make_queue, monkeypatch, pillow):
    """The simulated way to the store is two sleeps a task, of the length that was asked for."""
    [name] = generate_tasks.make_images(tmp_path, images=1, seed=7)
    if not pillow:
        monkeypatch.setattr(baseline_task_queue_v2, "Image", None)
    naps = []
    monkeypatch.setattr(baseline_task_queue_v2.time, "sleep", naps.append)
    queue = make_queue(source=tmp_path, round_trip=0.25)
    for _ in range(3):
        assert queue.submit({"image_key": name, "variant": "64x64"}).wait(LONG)
    assert naps == [0.25] * 6


# --- the stand-alone run ----------------------------------------------------------------------------------------------

LABELS = ("tasks", "elapsed", "throughput", "mean latency", "P95 latency", "errors", "round trip", "work", "sources")


def numbers(output):
    """Return the lines of a report as {label: rest}."""
    return {
        label: line.removeprefix(label).strip()
        for line in output.splitlines()
        for label in LABELS
        if line.startswith(label)
    }


def test_baseline_script_runs_from_any_directory(tmp_path):
    """Without a task file it generates its tasks, does them, prints every number, and leaves nothing behind."""
    result = run(BASELINE, "--count", "30", "--round-trip", "0.001", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    printed = numbers(result.stdout)
    assert printed["tasks"] == "30"
    assert printed["errors"] == "0"
    assert printed["round trip"].startswith("0.001 s")
    assert re.fullmatch(r"\d+\.\d tasks/s", printed["throughput"])
    assert printed["elapsed"].endswith(" s")
    assert "incl. waiting in the list" in printed["mean latency"]
    assert "incl. waiting in the list" in printed["P95 latency"]
    assert printed["work"] == ("the standard-library transform (zlib)" if Image is None else "Pillow thumbnails")
    assert list(tmp_path.iterdir()) == []


@needs_pillow
def test_baseline_script_runs_the_sample_as_it_is(tmp_path):
    """The sample needs no preparation: its images are generated."""
    result = run(BASELINE, SAMPLE, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert numbers(result.stdout).items() >= {"tasks": "8", "errors": "0"}.items()


def test_baseline_script_takes_the_images_beside_the_task_file(tmp_path):
    """What generate_tasks.py wrote is run as it lies there, by a relative name."""
    generate_tasks.generate(tmp_path / "made", count=9, images=2, seed=3)
    result = run(BASELINE, Path("made", "tasks.json"), "--workers", "2", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        numbers(result.stdout).items() >= {"tasks": "9", "errors": "0", "sources": str(Path("made", "images"))}.items()
    )
    assert "2 workers" in result.stdout


def test_baseline_script_counts_errors(tmp_path):
    """Tasks whose image is missing are counted, the first is named, and the exit status is 1."""
    tasks = [{"image_key": "none.jpg", "variant": "64x64"}] * 3
    result = run(BASELINE, write_json(tmp_path / "t.json", tasks), "--images", tmp_path, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    assert numbers(result.stdout)["errors"].startswith("3  (the first: FileNotFoundError")


GOOD = {"image_key": "cat.jpg", "variant": "64x64"}
BAD_FILES = {
    "missing": (None, "readable task file"),
    "empty": (b"", "not JSON"),
    "cut off": (b'[{"image_key": "cat.jpg", ', "line 1 column"),
    "not text": (b"\xff\xfe\x00", "not JSON"),
    "too deep": (b"[" * 200_000, "not JSON"),
    "no list": (json.dumps({"tasks": [GOOD]}).encode(), "expected a JSON list"),
    "no tasks": (b"[]", "at least one task"),
    "no object": (json.dumps([GOOD, "cat.jpg"]).encode(), "task 2: expected an object"),
    "no image_key": (json.dumps([GOOD, GOOD, {"variant": "64x64"}]).encode(), "task 3: expected an image_key"),
    "number": (json.dumps([{"image_key": 5, "variant": "64x64"}]).encode(), "task 1: expected an image_key"),
    "no variant": (json.dumps([GOOD, {"image_key": "cat.jpg"}]).encode(), "task 2: expected a variant"),
    "odd variant": (json.dumps([GOOD | {"variant": "0x64"}]).encode(), "task 1: expected a variant"),
    "odd key": (json.dumps([GOOD | {"idempotency_key": 7}]).encode(), "task 1: expected an idempotency_key"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_baseline_script_refuses_a_bad_task_file(tmp_path, content, message):
    """One line with the file, the position and what was expected; status 2; nothing is run."""
    path = tmp_path / "tasks.json"
    if content is not None:
        path.write_bytes(content)
    result = run(BASELINE, path, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{path}: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert "expected" in result.stderr


def test_task_file_with_a_byte_order_mark_is_read(tmp_path):
    """Some Windows editors put a mark in front of UTF-8; it is no error."""
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([GOOD]), encoding="utf-8-sig")
    assert baseline_task_queue_v2.read_tasks(path) == [GOOD]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--count", "0"],
        ["--workers", "0"],
        ["--round-trip", "-1"],
        ["--round-trip", "nan"],
        ["--images", "no-such-folder"],
        ["--images", "."],
    ],
    ids=" ".join,
)
def test_baseline_script_refuses_bad_arguments(tmp_path, arguments):
    """Bad arguments are a usage error, status 2, and nothing is run."""
    result = run(BASELINE, *arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert arguments[0] in result.stderr


def test_p95_is_the_nearest_rank(capsys):
    """Of 20 latencies the 19th is the P95, in whatever order they come."""
    baseline_task_queue_v2.report(2.0, [float(number) for number in range(20, 0, -1)], [])
    printed = numbers(capsys.readouterr().out)
    assert printed["P95 latency"].startswith("19.000 s")
    assert printed["mean latency"].startswith("10.500 s")
    assert printed["throughput"] == "10.0 tasks/s"


# --- without Pillow ---------------------------------------------------------------------------------------------------


def test_generator_without_pillow_says_so_and_writes_objects(tmp_path):
    """Binary objects of 64 KiB, seeded, about half compressible, and a plain word about it."""
    for out in ("a", "b"):
        result = run(GENERATOR, "--out", out, "--count", "5", "--images", "2", cwd=tmp_path, without_pillow=True)
        assert (result.returncode, result.stderr) == (0, "")
        assert "Pillow is not installed" in result.stdout
    objects = contents(tmp_path / "a")
    assert objects == contents(tmp_path / "b")
    assert sorted(objects) == ["photo-000.bin", "photo-001.bin"]
    for data in objects.values():
        assert len(data) == 65536
        assert 0.4 < len(zlib.compress(data)) / len(data) < 0.8
    assert {task["image_key"] for task in json.loads((tmp_path / "a" / "tasks.json").read_text())} <= set(objects)


def test_baseline_script_without_pillow_says_which_work_was_done(tmp_path):
    """The stand-alone run works without Pillow and does not pretend to have made thumbnails."""
    result = run(BASELINE, "--count", "20", cwd=tmp_path, without_pillow=True)
    assert (result.returncode, result.stderr) == (0, "")
    printed = numbers(result.stdout)
    assert printed["work"] == "the standard-library transform (zlib)"
    assert (printed["tasks"], printed["errors"]) == ("20", "0")


def test_transform_bytes_are_the_documented_ones(tmp_path, make_queue, monkeypatch):
    """zlib level 6 over the variant, a line end and the object, fed in chunks of 65536 bytes."""
    monkeypatch.setattr(baseline_task_queue_v2, "Image", None)
    data = bytes(range(256)) * 700  # three chunks, the last one short
    (tmp_path / "photo-000.bin").write_bytes(data)
    queue = make_queue(source=tmp_path)
    handle = queue.submit({"image_key": "photo-000.bin", "variant": "64x64"})
    assert handle.wait(LONG)
    packer = zlib.compressobj(6)
    expected = packer.compress(b"64x64\n")
    for start in range(0, len(data), 65536):
        expected += packer.compress(data[start : start + 65536])
    expected += packer.flush()
    assert handle.output.name == "photo-000_64x64.bin"
    assert handle.output.read_bytes() == expected
    assert zlib.decompress(expected) == b"64x64\n" + data


# --- the notes --------------------------------------------------------------------------------------------------------


def test_every_defect_in_the_notes_can_be_seen():
    """Each heading of notes.md has lines to run and what they print."""
    headings = BASELINE.with_name("notes.md").read_text(encoding="utf-8").count("\n## ")
    assert headings == len(NOTES) >= 12


@pytest.mark.parametrize(("title", "program", "printed"), NOTES, ids=[title for title, _, _ in NOTES])
def test_notes_show_what_they_say(tmp_path, title, program, printed):
    """The lines in notes.md print what is written below them."""
    if "with Pillow" in title and Image is None:
        pytest.skip("Pillow is not installed")
    (tmp_path / "see.py").write_text(program, encoding="utf-8")
    result = run("see.py", cwd=tmp_path)
    assert (result.returncode, result.stderr, result.stdout) == (0, "", printed)
