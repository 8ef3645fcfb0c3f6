"""The image processor: thumbnails with Pillow, zlib without, and what it makes of bad objects."""

import errno
import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest

from pytest_taskqueue.input_new.baseline_task_queue_v2 import BaselineTaskQueue
from taskqueue_core import ErrorClass, FaultInjector, ObjectStore, PermanentError, Processor, Task, classify

MIB = 1 << 20


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path / "in")


@pytest.fixture
def process(store, tmp_path):
    """Put bytes into the store and work on them; the outputs have a folder of their own."""

    def run(data, variant="20x20", **options):
        store.write("cat", [data])
        return Processor(store, outputs=ObjectStore(tmp_path / "out"), **options)(Task("cat", variant))

    return run


@pytest.fixture
def draw(pillow):
    """Make an image file: noise, which no format compresses to nothing."""

    def encode(size=(64, 32), mode="RGB", kind="PNG"):
        file = io.BytesIO()
        pillow.effect_noise(size, 80).convert("RGB").convert(mode).save(file, kind)
        return file.getvalue()

    return encode


def python(program, folder):
    """What a program prints that runs in a folder of its own, without a warning."""
    command = [sys.executable, "-W", "error", "-c", program]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)
    assert run.stderr == ""
    return run.stdout


def png_header(width, height):
    """A PNG file that claims a size and holds no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checked = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + checked + struct.pack(">I", 9) + b"IDAT" + bytes(40)


FITTING = [
    *(((100, 50), "20x20", (20, 10)), ((50, 100), "20x20", (10, 20)), ((100, 100), "30x10", (10, 10))),
    *(((10, 8), "200x200", (10, 8)), ((500, 1), "20x20", (20, 1))),
]


@pytest.mark.parametrize(("size", "variant", "expected"), FITTING)
def test_thumbnail_fits_the_box(process, pillow, draw, size, variant, expected):
    """The longer side meets the box, the shape is kept, nothing is enlarged; the value tells the size."""
    output = process(draw(size), variant)
    with pillow.open(output.temp_path) as image:
        assert (image.format, image.size) == ("JPEG", expected)
    assert output.value == {"width": expected[0], "height": expected[1]}


MODES = [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("L", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("CMYK", "TIFF")]


@pytest.mark.parametrize(("mode", "kind"), MODES)
def test_every_mode_gives_the_bytes_of_the_baseline(process, pillow, draw, tmp_path, mode, kind):
    """Whatever the mode of the source, the result is an RGB JPEG, the same bytes as the original queue makes."""
    output = process(draw(mode=mode, kind=kind))
    with pillow.open(output.temp_path) as image:
        assert image.mode == "RGB"
    baseline = BaselineTaskQueue(workers=1, round_trip=0, source=tmp_path / "in", output=tmp_path / "baseline")
    try:
        expected = baseline.process({"image_key": "cat", "variant": "20x20"})
    finally:
        baseline.stop()
    assert Path(output.temp_path).read_bytes() == expected.read_bytes()


def refused(process, tmp_path, data, **options):
    """The message of the PermanentError, which names the object and leaves no output."""
    with pytest.raises(PermanentError, match="cat") as caught:
        process(data, **options)
    assert [*(tmp_path / "out").glob("*")] == []
    return str(caught.value)


@pytest.mark.usefixtures("pillow")
@pytest.mark.parametrize(
    "data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff" + bytes(99)], ids=repr
)
def test_what_is_no_image_is_permanent(process, tmp_path, data):
    """Empty, text, or no more than the beginning of an image."""
    assert "no readable image" in refused(process, tmp_path, data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("percent", [50, 90])
def test_truncated_image_is_permanent(process, draw, tmp_path, kind, percent):
    """Half a picture is no picture."""
    data = draw(kind=kind)
    assert "no readable image" in refused(process, tmp_path, data[: len(data) * percent // 100])


def test_error_of_a_decoder_is_permanent(process, draw, tmp_path):
    """Some decoders say "corrupt" with a RuntimeError, which would otherwise count as worth another attempt."""
    data = bytearray(draw(mode="P", kind="BLP"))
    data[4:8] = struct.pack("<i", 99)  # an unheard-of compression
    assert "no readable image" in refused(process, tmp_path, bytes(data))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("where", ["reading", "decoding", "encoding"])
def test_fault_of_the_machine_is_not_blamed_on_the_image(process, draw, pillow, monkeypatch, where, code):
    """An OSError with an errno is passed on as it is, so that the task gets another attempt; no file stays open."""

    def fail(*arguments, **options):
        raise OSError(code, "injected")

    def chunks(*arguments):
        yield bytes(2 * MIB)
        fail()

    targets = {"reading": (ObjectStore, "_chunks", chunks), "decoding": (pillow, "open", fail)}
    data = draw()
    monkeypatch.setattr(*targets.get(where, (pillow.Image, "save", fail)))
    with pytest.raises(OSError, match="injected") as caught:
        process(data)
    assert classify(caught.value) is not ErrorClass.PERMANENT


def test_image_that_no_jpeg_can_hold_is_permanent(process, pillow, tmp_path):
    """Its sides end at 65,500 pixels, those of other formats do not."""
    file = io.BytesIO()
    pillow.new("1", (65_501, 1)).save(file, "PNG")
    assert "JPEG" in refused(process, tmp_path, file.getvalue(), variant="99999x99999")


CUT_SHORT = """
import resource, sys
from taskqueue_core import ErrorClass, ObjectStore, Processor, Task, classify
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    print(Processor(ObjectStore("in"), outputs=ObjectStore("out"))(Task("cat", "200x200")))
except OSError as error:
    print(classify(error).value)
"""


def test_output_cut_short_is_no_success(store, draw, tmp_path):
    """The last write before a disk is full, or a limit reached, takes a part only: the attempt fails, no file stays."""
    pytest.importorskip("resource", reason="needs a limit on the size of files")
    store.write("cat", [draw((300, 300))])
    assert python(CUT_SHORT, tmp_path).split() == ["environment"]
    assert [*(tmp_path / "out").iterdir()] == []


def test_too_many_pixels_are_permanent(process, draw, tmp_path):
    """One more than max_pixels is refused by the header, exactly max_pixels is not."""
    assert "2,048" in refused(process, tmp_path, draw((64, 32)), max_pixels=2047)
    assert process(draw((64, 32)), max_pixels=2048).value == {"width": 20, "height": 10}


@pytest.mark.usefixtures("pillow")
@pytest.mark.parametrize("side", [7_100, 10_000, 30_000])
def test_decompression_bomb_is_permanent(process, tmp_path, side):
    """A header that claims more than the default allows, more than Pillow warns of, more than Pillow opens."""
    assert "pixels" in refused(process, tmp_path, png_header(side, side))


@pytest.mark.usefixtures("pillow")
@pytest.mark.parametrize(
    "variant", ["", "20", "20x", "0x5", "axb", "2x2x2", "-1x2", "100000x1", " 2x2", "2x2\n", "2X2"]
)
def test_bad_variant_is_permanent(store, variant):
    """It is refused before the object is looked for, here one that is missing."""
    with pytest.raises(PermanentError, match="variant"):
        Processor(store)(Task("missing", variant))


@pytest.mark.parametrize(("key", "error"), [("missing", FileNotFoundError), ("../cat", PermanentError)])
def test_missing_source_is_permanent(store, key, error):
    """Neither an object that is not there nor a key that cannot be one is tried again."""
    with pytest.raises(error) as caught:
        Processor(store)(Task(key, "20x20"))
    assert classify(caught.value) is ErrorClass.PERMANENT


def test_fault_strikes_before_the_object_is_read(store):
    """An injected fault costs no I/O: it comes even when the object is missing."""
    with pytest.raises(ConnectionError, match="injected"):
        Processor(store, faults=FaultInjector(error_rate=1.0, error=ConnectionError))(Task("missing", "20x20"))


def test_discard_removes_what_attempts_left(store, tmp_path):
    """The unfinished files of the named tasks go, those of others and the sources stay."""
    outputs, dead, other = ObjectStore(tmp_path / "out"), Task("cat", "1x1"), Task("cat", "2x2")
    kept = [outputs.stage(other.key, [b"1"]), store.stage(dead.key, [b"1"])]
    outputs.stage(dead.key, [b"1"], suffix=".jpg")
    Processor(store, outputs=outputs).discard([dead])
    assert [*outputs.root.iterdir(), *store.root.iterdir()] == kept


def test_memory_does_not_grow_with_the_source(process, draw):
    """A source of 32 MiB, an image and a long tail, is held on disk beyond the first MiB."""
    data = draw() + bytes(32 * MIB)
    process(data)  # what Pillow imports on first use does not count
    tracemalloc.start()
    try:
        value = process(data).value
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert value == {"width": 20, "height": 10}
    assert peak < 4 * MIB


WITHOUT_PILLOW = """
import sys, json, tracemalloc
sys.modules["PIL"] = None
from taskqueue_core import ObjectStore, Processor, Task
from pytest_taskqueue.input_new.baseline_task_queue_v2 import BaselineTaskQueue
store = ObjectStore("in")
store.write("cat", (bytes([n]) * 65536 for n in range(256)))
tracemalloc.start()
output = Processor(store, outputs=ObjectStore("out"))(Task("cat", "20x20"))
peak = tracemalloc.get_traced_memory()[1]
baseline = BaselineTaskQueue(1, 0, source="in", output="baseline")
expected = baseline.process({"image_key": "cat", "variant": "20x20"})
baseline.stop()
print(json.dumps([str(output.temp_path), str(expected), output.value, peak]))
"""


def test_without_pillow_the_object_is_compressed(tmp_path):
    """In chunks, after the variant, and into the same bytes as the original queue."""
    output, expected, value, peak = json.loads(python(WITHOUT_PILLOW, tmp_path))
    data = (tmp_path / output).read_bytes()
    assert (value, output[-4:]) == ({"transform": "zlib"}, ".bin")
    assert zlib.decompress(data) == b"20x20\n" + b"".join(bytes([n]) * 65536 for n in range(256))
    assert data == (tmp_path / expected).read_bytes()
    assert peak < MIB
