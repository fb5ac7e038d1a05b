"""Draw the mini data set: small remote-sensing-like scenes with captions and boxes, the same for the same seed.

``OUT/images/*.jpg``, ``OUT/dataset_mini.json`` (Karpathy style, five captions an image), ``OUT/vocabulary.json`` and
``OUT/instances_{train,val,test}.json`` (COCO boxes). It is there to try every step of the package in minutes without a
download; it says nothing about real images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from galr_mm.cli.errors import one_line
from galr_mm.datasets.captions import number_records
from galr_mm.text import Vocabulary
from galr_mm.utils.io import atomic_write, write_text
from galr_mm.utils.logging import progress

SIDE = 256
CLASSES = ('airplane', 'ship', 'storage_tank', 'tennis_court', 'house', 'vehicle')
COLORS = {  # BGR
    'white': (235, 235, 235),
    'red': (60, 60, 190),
    'blue': (180, 110, 50),
    'grey': (150, 150, 150),
    'yellow': (70, 190, 220),
    'brown': (60, 90, 130),
    'green': (70, 140, 80),
}
NUMBERS = ('no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight')
PLACES = (
    ('in the upper left', 'at the top', 'in the upper right'),
    ('on the left', 'in the center', 'on the right'),
    ('in the lower left', 'at the bottom', 'in the lower right'),
)

# polygons in units of an object's size, and the dark line on top
Points = list[tuple[float, float]]
SHAPES: dict[str, list[Points]] = {
    'airplane': [
        [(-0.5, -0.06), (0.5, -0.06), (0.5, 0.06), (-0.5, 0.06)],
        [(-0.1, -0.5), (0.08, -0.5), (0.2, 0), (0.08, 0.5), (-0.1, 0.5), (0.02, 0)],
        [(-0.5, -0.2), (-0.4, -0.2), (-0.32, 0), (-0.4, 0.2), (-0.5, 0.2)],
    ],
    'ship': [[(-0.5, -0.13), (0.25, -0.13), (0.5, 0), (0.25, 0.13), (-0.5, 0.13)]],
    'tennis_court': [[(-0.5, -0.3), (0.5, -0.3), (0.5, 0.3), (-0.5, 0.3)]],
    'house': [[(-0.5, -0.36), (0.5, -0.36), (0.5, 0.36), (-0.5, 0.36)]],
    'vehicle': [[(-0.5, -0.24), (0.5, -0.24), (0.5, 0.24), (-0.5, 0.24)]],
}
MARKS: dict[str, Points] = {
    'house': [(-0.5, 0), (0.5, 0)],
    'ship': [(-0.35, 0), (0.15, 0)],
    'vehicle': [(0.18, -0.22), (0.18, 0.22)],
}
# width and color (BGR)
STRIPS = {'runway': (34, (95, 95, 95)), 'road': (16, (160, 165, 165)), 'pier': (22, (130, 165, 185))}


class Scene(NamedTuple):
    """A kind of place: ground color (BGR), roughness, its object and how many, their colors, names and settings."""

    ground: tuple[int, int, int]
    noise: int
    kind: str | None
    counts: tuple[int, int]  # least and most objects
    size: tuple[int, int]
    colors: tuple[str, ...]
    nouns: tuple[str, str]  # singular, plural
    settings: tuple[str, ...]
    extra: str | None = None


SCENES = {
    'airport': Scene((140, 140, 140), 6, 'airplane', (1, 6), (34, 56), ('white', 'blue', 'red'),
                     ('airplane', 'airplanes'),
                     ('on the grey apron of an airport', 'at the airport near a runway', 'on the tarmac'), 'runway'),
    'harbor': Scene((120, 75, 35), 7, 'ship', (2, 7), (34, 60), ('white', 'red', 'yellow'), ('ship', 'ships'),
                    ('in a harbor beside the pier', 'moored at the port', 'along the wharf of a harbor'), 'pier'),
    'sea': Scene((130, 95, 30), 5, 'ship', (1, 3), (30, 54), ('white', 'grey', 'red'), ('boat', 'boats'),
                 ('on the open sea', 'sailing on blue water', 'in the ocean far from land')),
    'tanks': Scene((120, 160, 185), 9, 'storage_tank', (2, 8), (30, 50), ('white', 'grey', 'green'),
                   ('storage tank', 'storage tanks'), ('on bare ground', 'in an industrial area', 'of an oil depot')),
    'courts': Scene((90, 150, 95), 8, 'tennis_court', (1, 4), (48, 66), ('blue', 'red', 'green'),
                    ('tennis court', 'tennis courts'), ('surrounded by grass', 'in a park', 'on a sports ground')),
    'residential': Scene((95, 130, 120), 12, 'house', (3, 8), (32, 50), ('red', 'grey', 'brown'), ('house', 'houses'),
                         ('in a residential area with a road', 'beside a road with trees', 'in a village'), 'road'),
    'parking': Scene((95, 95, 100), 6, 'vehicle', (3, 8), (20, 30), ('white', 'red', 'blue', 'yellow'), ('car', 'cars'),
                     ('in a parking lot', 'on dark asphalt', 'parked in the car park'), 'lines'),
    'desert': Scene((135, 185, 215), 10, None, (0, 0), (0, 0), (), ('', ''),
                    ('a yellow desert with sand dunes', 'a bare piece of sand', 'dry land without any building')),
    'forest': Scene((55, 95, 50), 18, None, (0, 0), (0, 0), (), ('', ''),
                    ('a dense green forest', 'many dark green trees', 'woodland without any building')),
}  # fmt: skip


def draw_ground(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Ground with smooth and fine texture and the scene's runway, pier, road or lines."""
    coarse = cv2.resize(
        rng.normal(0, scene.noise, (8, 8, 1)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC
    )
    fine = rng.normal(0, scene.noise, (SIDE, SIDE, 3))
    img = np.clip(np.array(scene.ground) + rng.normal(0, 5, 3) + coarse[..., None] + fine, 0, 255).astype(np.uint8)
    at = int(rng.integers(40, SIDE - 40))
    upright = bool(rng.integers(2))
    if scene.extra in ('runway', 'road', 'pier'):
        width, color = STRIPS[scene.extra]
        ends = ((at, 0), (at, SIDE)) if upright else ((0, at), (SIDE, at))
        cv2.line(img, *ends, color, width)
        if scene.extra == 'runway':
            for start in range(8, SIDE, 32):
                dash = ((at, start), (at, start + 14)) if upright else ((start, at), (start + 14, at))
                cv2.line(img, *dash, (235, 235, 235), 3)
    elif scene.extra == 'lines':
        for start in range(at % 28, SIDE, 28):
            cv2.line(
                img, *(((start, 0), (start, SIDE)) if upright else ((0, start), (SIDE, start))), (190, 190, 190), 1
            )
    elif scene.kind is None:
        for _ in range(40):  # tree crowns or dunes
            center = tuple(int(v) for v in rng.integers(0, SIDE, 2))
            shade = np.array(scene.ground) * rng.uniform(0.75, 1.2)
            axes = (
                (int(rng.integers(6, 16)),) * 2
                if scene.noise > 15
                else (int(rng.integers(25, 60)), int(rng.integers(3, 7)))
            )
            cv2.ellipse(img, center, axes, 20, 0, 360, np.clip(shade, 0, 255).tolist(), -1, cv2.LINE_AA)
    return img


def draw_object(img: np.ndarray, kind: str, center: np.ndarray, size: float, angle: float, color: tuple) -> np.ndarray:
    """Draw one object and return its box, xyxy in pixels."""
    dark = tuple(int(c * 0.6) for c in color)
    if kind == 'storage_tank':
        at, radius = tuple(int(round(v)) for v in center), int(size / 2)
        cv2.circle(img, (at[0] + 3, at[1] + 3), radius, (50, 60, 65), -1, cv2.LINE_AA)
        cv2.circle(img, at, radius, color, -1, cv2.LINE_AA)
        cv2.circle(img, at, max(2, radius // 3), dark, 1, cv2.LINE_AA)
        return np.array([center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius])
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]]) * size

    def place(points: Points) -> np.ndarray:
        return np.asarray(points) @ turn + center

    corners = []
    for polygon in SHAPES[kind]:
        points = place(polygon)
        corners.append(points)
        cv2.fillPoly(img, [points.round().astype(np.int32)], color, cv2.LINE_AA)
    if kind == 'tennis_court':
        inner = place([(-0.38, -0.2), (0.38, -0.2), (0.38, 0.2), (-0.38, 0.2)]).round().astype(np.int32)
        cv2.polylines(img, [inner], True, (240, 240, 240), 1, cv2.LINE_AA)
        start, end = place([(0, -0.3), (0, 0.3)]).round().astype(int).tolist()
        cv2.line(img, start, end, (240, 240, 240), 1, cv2.LINE_AA)
    elif kind in MARKS:
        start, end = place(MARKS[kind]).round().astype(int).tolist()
        cv2.line(img, start, end, dark, 2, cv2.LINE_AA)
    points = np.concatenate(corners)
    return np.concatenate([points.min(0), points.max(0)])


def place_objects(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[tuple[np.ndarray, float]]:
    """Centers and sizes of up to ``count`` objects that do not touch."""
    placed: list[tuple[np.ndarray, float]] = []
    for _ in range(200):
        if len(placed) == count:
            break
        extent = float(rng.uniform(*size))
        center = rng.uniform(extent * 0.55, SIDE - extent * 0.55, 2)
        if all(np.abs(center - other).max() > 0.5 * (extent + theirs) + 2 for other, theirs in placed):
            placed.append((center, extent))
    return placed


def captions_of(rng: np.random.Generator, scene: Scene, count: int, color: str, boxes: np.ndarray) -> list[str]:
    """Five different captions of a scene."""
    if scene.kind is None:
        setting = list(scene.settings)
        templates = ['there is {} .', 'this is {} .', 'an image of {} .', '{} seen from above .', 'it is {} .']
        chosen = [setting[int(i)] for i in rng.integers(0, len(setting), 5)]
        return [template.format(text) for template, text in zip(templates, chosen, strict=True)]
    noun = scene.nouns[count > 1]
    number = NUMBERS[count]
    vague = 'a' if count == 1 else 'some' if count < 4 else 'many'
    column, row = (boxes.reshape(-1, 2, 2).mean(1).mean(0) // (SIDE / 3)).astype(int).clip(0, 2)
    place = PLACES[row][column]
    settings = [scene.settings[int(i)] for i in rng.integers(0, len(scene.settings), 5)]
    verb = 'is' if count == 1 else 'are'
    return [
        f'there {verb} {number} {color} {noun} {settings[0]} .',
        f'{number} {color} {noun} {verb} {settings[1]} .',
        f'{vague} {noun} {verb} {settings[2]} , mostly {place} of the image .',
        f'we can see {number} {noun} {settings[3]} .',
        f'{vague} {color} {noun} {settings[4]} {place} .',
    ]


def make_image(rng: np.random.Generator) -> tuple[np.ndarray, list[str], list[tuple[int, np.ndarray]]]:
    """One scene: image, captions and objects (class number, box xyxy)."""
    scene = SCENES[list(SCENES)[int(rng.integers(len(SCENES)))]]
    img = draw_ground(rng, scene)
    objects, color = [], ''
    if scene.kind is not None:
        color = scene.colors[int(rng.integers(len(scene.colors)))]
        angle = float(rng.uniform(0, 2 * np.pi))
        wanted = int(rng.integers(scene.counts[0], scene.counts[1] + 1))
        for center, size in place_objects(rng, wanted, scene.size):
            shade = tuple(float(np.clip(c + rng.normal(0, 8), 0, 255)) for c in COLORS[color])
            box = draw_object(img, scene.kind, center, size, angle + float(rng.normal(0, 0.15)), shade)
            objects.append((CLASSES.index(scene.kind), box.clip(0, SIDE)))
    boxes = np.array([box for _, box in objects]).reshape(-1, 4)
    return img, captions_of(rng, scene, len(objects), color, boxes), objects


def make(out: Path, counts: dict[str, int], seed: int) -> int:
    """Write the whole set; its json files come last. Returns the number of objects."""
    (out / 'images').mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    categories = [dict(id=label + 1, name=name) for label, name in enumerate(CLASSES)]
    coco = {split: dict(images=[], annotations=[], categories=categories) for split in counts}
    with progress(total=sum(counts.values()), desc='drawing', unit='image') as bar:
        for split, count in counts.items():
            for number in range(count):
                img, captions, objects = make_image(np.random.default_rng([seed, len(records)]))
                name = f'{split}_{number:04d}.jpg'
                done, code = cv2.imencode('.jpg', img, [cv2.IMWRITE_JPEG_QUALITY, 92])
                if not done:
                    raise OSError(f'cannot encode {name}')
                with atomic_write(out / 'images' / name) as part:
                    part.write_bytes(code.tobytes())
                records.append(dict(filename=name, split=split, sentences=[dict(raw=text) for text in captions]))
                images, annotations = coco[split]['images'], coco[split]['annotations']
                images.append(dict(id=number + 1, file_name=name, width=SIDE, height=SIDE))
                for label, (x1, y1, x2, y2) in objects:
                    width, height = round(float(x2 - x1), 2), round(float(y2 - y1), 2)
                    annotations.append(
                        dict(
                            id=len(annotations) + 1, image_id=number + 1, category_id=label + 1, iscrowd=0,
                            bbox=[round(float(x1), 2), round(float(y1), 2), width, height],
                            area=round(width * height, 2),
                        )
                    )  # fmt: skip
                bar.update()
    for split, content in coco.items():
        write_text(out / f'instances_{split}.json', json.dumps(content))
    Vocabulary.from_captions(s['raw'] for r in records if r['split'] == 'train' for s in r['sentences']).save(
        out / 'vocabulary.json'
    )
    write_text(
        out / 'dataset_mini.json', json.dumps({'dataset': 'mini', 'seed': seed, 'images': number_records(records)})
    )
    return sum(len(content['annotations']) for content in coco.values())


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('data/mini'))
    parser.add_argument('--train', type=int, default=300, help='training images')
    parser.add_argument('--val', type=int, default=50)
    parser.add_argument('--test', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    counts = dict(train=args.train, val=args.val, test=args.test)
    if min(counts.values()) < 1:
        parser.error(f'every split needs an image, got {counts}')
    if args.seed < 0:
        parser.error(f'--seed is {args.seed}, expected 0 or more')
    try:
        objects = make(args.out, counts, args.seed)
    except OSError as error:
        raise SystemExit(f'--out: cannot write into {args.out} ({error})') from error
    print(f'{sum(counts.values())} images with {objects} objects written to {args.out}')
