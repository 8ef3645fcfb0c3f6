"""Write a seeded set of tasks, and the source images they name.

    python generate_tasks.py --out demo --count 1000 --images 16 --seed 7

makes `demo/tasks.json` and `demo/images/photo-000.jpg` ... The same seed gives the same tasks and the same pixels,
and photo-000 is the same picture however many images are made. Without Pillow the sources are binary objects.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from PIL import Image, ImageDraw
except ImportError:
    Image = None  # type: ignore[assignment]

VARIANTS = ("320x240", "200x200", "128x128", "64x64")
SIZE = (640, 480)  # pixels
QUALITY = 88
SHAPES = 24
GRAIN = 0.1  # share of pure noise in every pixel: what makes a JPEG as large as a photo's
OBJECT_BLOCKS = 64  # of 1024 bytes each: a binary object is 64 KiB


def generate(directory: str | Path, *, count: int = 1000, images: int = 16, seed: int = 7) -> list[dict[str, Any]]:
    """Write `directory/images/` and `directory/tasks.json`; return the tasks.

    Every task has its own idempotency key, while many share their image and variant: there are `images` x 4 pairs.
    Raises ValueError when `count` or `images` is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}: at least 1 task is needed")
    folder = Path(directory)
    names = make_images(folder / "images", images=images, seed=seed)
    rng = random.Random(f"{seed}:tasks")
    tasks: list[dict[str, Any]] = [
        {
            "image_key": rng.choice(names),
            "variant": rng.choice(VARIANTS),
            "params": {},
            "idempotency_key": f"task-{number:06d}",
        }
        for number in range(count)
    ]
    lines = ",\n".join(json.dumps(task) for task in tasks)
    (folder / "tasks.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8", newline="\n")
    return tasks


def make_images(directory: str | Path, *, images: int, seed: int) -> list[str]:
    """Write `images` source files straight into `directory` (made when needed); return their names.

    JPEG photos of 640x480 pixels with Pillow, `.bin` objects of 64 KiB without. Raises ValueError when `images` is
    below 1.
    """
    if images < 1:
        raise ValueError(f"images is {images}: at least 1 image is needed")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number in range(images):
        rng = random.Random(f"{seed}:{number}")  # its own generator: photo-000 does not depend on how many follow
        if Image is None:
            name = f"photo-{number:03d}.bin"
            (folder / name).write_bytes(_binary_object(rng))
        else:
            name = f"photo-{number:03d}.jpg"
            _photo(rng).save(folder / name, "JPEG", quality=QUALITY)
        names.append(name)
    return names


def _photo(rng: random.Random) -> "Image.Image":
    """Return a picture that costs a decoder about what a photo does: soft fields, light, edges, grain."""
    image = Image.blend(_field(rng, 5, 4), _field(rng, 40, 30), 0.3)
    light = Image.linear_gradient("L").rotate(90 * rng.randrange(4)).resize(SIZE)
    image = Image.blend(image, light.convert("RGB"), 0.25)
    _draw_shapes(image, rng)
    grain = Image.frombytes("RGB", SIZE, rng.randbytes(SIZE[0] * SIZE[1] * 3))
    return Image.blend(image, grain, GRAIN)


def _field(rng: random.Random, width: int, height: int) -> "Image.Image":
    """Return `width` x `height` random colours, scaled up to a smooth field."""
    colours = Image.frombytes("RGB", (width, height), rng.randbytes(width * height * 3))
    return colours.resize(SIZE, Image.Resampling.BICUBIC)


def _draw_shapes(image: "Image.Image", rng: random.Random) -> None:
    draw = ImageDraw.Draw(image)
    for number in range(SHAPES):
        left, top = rng.randrange(-60, SIZE[0]), rng.randrange(-60, SIZE[1])
        box = (left, top, left + rng.randrange(10, 160), top + rng.randrange(10, 160))
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        if number % 3 == 0:
            draw.ellipse(box, fill=colour)
        elif number % 3 == 1:
            draw.rectangle(box, fill=colour)
        else:
            draw.line(box, fill=colour, width=rng.randrange(1, 6))


def _binary_object(rng: random.Random) -> bytes:
    """Return 64 KiB of which about half can be compressed away."""
    return b"".join(rng.randbytes(512) + rng.randbytes(32) * 16 for _ in range(OBJECT_BLOCKS))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Write a seeded set of tasks and the source images they name.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("generated_tasks"),
        metavar="DIR",
        help="folder to write to, made when needed (default: %(default)s in the working directory)",
    )
    parser.add_argument("--count", type=_positive, default=1000, help="number of tasks (default: %(default)s)")
    parser.add_argument("--images", type=_positive, default=16, help="number of source images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same tasks and pixels (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        generate(options.out, count=options.count, images=options.images, seed=options.seed)
    except OSError as error:
        parser.error(f"cannot write to {str(options.out)!r}: {error}")
    print(f"wrote {options.count} tasks to {options.out / 'tasks.json'}")
    if Image is None:
        print(f"Pillow is not installed: wrote {options.images} binary objects, no images, to {options.out / 'images'}")
    else:
        print(f"wrote {options.images} JPEG images to {options.out / 'images'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
