"""Run any MMDet detector over many images and keep what it finds as one COCO json.

Work goes to ``<out>.partial.jsonl`` (and ``.partial-1.jsonl`` and so on, a file for each process), one line an image;
the json appears, complete, when the last image is done. An interrupted run resumes after the last complete lines.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.dist import barrier, broadcast_object_list, get_rank, get_world_size, is_main_process
from torch.utils.data import DataLoader, Dataset

from galr_mm.detection.coco import write_coco
from galr_mm.detection.detector import MMDetDetector
from galr_mm.imagery import image_size, list_images, read_image
from galr_mm.structures import Detections
from galr_mm.utils.io import file_lock, naming, write_text
from galr_mm.utils.logging import progress


class DetectorInputs(Dataset[dict[str, Any]]):
    """Images through a detector's own test pipeline; a broken one gives its error, a large one only its name.

    An image is large when a side is longer than ``tile``.
    """

    def __init__(self, root: Path, names: Sequence[str], pipeline: Compose, tile: int | None = None) -> None:
        self.root, self.names, self.pipeline, self.tile = root, names, pipeline, tile

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """File name with the detector's input, with an error text, or alone."""
        name = self.names[index]
        try:
            if self.tile and max(image_size(self.root / name)) > self.tile:
                return {'name': name}
            return {'name': name, 'data': self.pipeline(dict(img=read_image(self.root / name), img_id=index))}
        except Exception as error:  # whatever a decoder raises on a broken file; it is listed in the result
            return {'name': name, 'error': _reason(error)}


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


class Settings(NamedTuple):
    """What decides which objects are kept.

    Args:
        score_thr: leave out lower scores.
        max_per_image: keep the N highest-scoring objects.
        tile: cut images with a longer side into tiles of N x N pixels; None never does.
        overlap: pixels that neighboring tiles share.
        merge_iou: of objects of one class in the tiles of an image that overlap more, the highest-scoring stays.
    """

    score_thr: float = 0.1
    max_per_image: int = 100
    tile: int | None = None
    overlap: int = 200
    merge_iou: float = 0.5

    def check(self) -> None:
        """Raise ValueError for a setting that makes no sense."""
        if not 0 <= self.score_thr <= 1 or not 0 < self.merge_iou <= 1 or self.max_per_image < 1:
            raise ValueError(
                f'score_thr is {self.score_thr}, merge_iou {self.merge_iou} and max_per_image {self.max_per_image}; '
                'expected 0 to 1, above 0 to 1, and 1 or more'
            )
        if self.tile is not None and not 0 <= self.overlap < self.tile:
            raise ValueError(f'overlap is {self.overlap}, expected 0 to less than the tile of {self.tile}')


class Detected(NamedTuple):
    """One image: its objects, or why it cannot be read, and how many objects were left out for which reason."""

    name: str
    found: Detections | str
    dropped: Mapping[str, int] = {}


def detect(
    detector: MMDetDetector,
    root: Path,
    names: Sequence[str],
    settings: Settings,
    batch_size: int = 8,
    num_workers: int = 2,
) -> Iterator[Detected]:
    """Yield what was found in each image, in order."""
    images = DetectorInputs(root, names, detector.pipeline, settings.tile)
    for items in DataLoader(images, batch_size, num_workers=num_workers, collate_fn=list):
        results = iter(detector.detect_prepared([item['data'] for item in items if 'data' in item]))
        for item in items:
            if 'error' in item:
                yield Detected(item['name'], item['error'])
                continue
            if 'data' in item or settings.tile is None:
                found = next(results)
            else:
                try:
                    found = detector.detect_in_tiles(
                        root / item['name'],
                        tile=settings.tile,
                        overlap=settings.overlap,
                        merge_iou=settings.merge_iou,
                        batch_size=batch_size,
                    )
                except Exception as error:  # as above, for what only decoding shows
                    yield Detected(item['name'], _reason(error))
                    continue
            yield Detected(item['name'], *found.filtered_and_counted(settings.score_thr, settings.max_per_image))


def extract_proposals(
    config: str | Path,
    checkpoint: str | Path,
    source: str | Path,
    out: str | Path,
    img_root: str | Path | None = None,
    settings: Settings | None = None,
    batch_size: int = 8,
    num_workers: int = 2,
    device: str = 'cpu',
) -> dict | None:
    """Detect objects in all images of ``source`` and write them to ``out``, a COCO json.

    In a process group each process takes every n-th image that is still to be done.

    Returns:
        What was written; None in all processes but the first.

    Raises:
        FileExistsError: when an unfinished run of other settings or images lies beside ``out``.
        BlockingIOError: when another run is writing to ``out``.
        ValueError: for settings that make no sense.
    """
    settings = settings or Settings()
    settings.check()
    out = Path(out)
    root, names = list_images(source, img_root)
    detector = MMDetDetector(checkpoint, config, device)
    header = {
        'images': str(root.resolve()),
        'detector': hashlib.sha256(
            Path(checkpoint).read_bytes() + json.dumps(str(_model_and_pipeline(detector.cfg))).encode()
        ).hexdigest(),
        **settings._asdict(),
        'classes': list(detector.classes),
    }
    with ExitStack() as stack:
        shared: list[Any] = [None]
        if is_main_process():
            try:
                stack.enter_context(file_lock(out))
                shared = [_start(out, header)]
            except (FileExistsError, BlockingIOError) as error:
                shared = [error]
        broadcast_object_list(shared)
        if isinstance(shared[0], Exception):
            raise shared[0]
        done = set(shared[0])
        todo = [name for name in names if name not in done]
        own = todo[get_rank() :: get_world_size()]
        if done and is_main_process():
            print(f'resuming after {len(names) - len(todo)} of {len(names)} images from {_partial(out)}', flush=True)
        with (
            naming(_partial(out, get_rank())),
            _partial(out, get_rank()).open('a', encoding='utf-8') as file,
            progress(total=len(own), unit='image', disable=not is_main_process()) as bar,
        ):
            if not is_main_process():
                file.write(json.dumps(header) + '\n')
            for detected in detect(detector, root, own, settings, batch_size, num_workers):
                file.write(json.dumps(_record(detected)) + '\n')
                file.flush()
                bar.update()
        barrier()
        if not is_main_process():
            return None
        records = _read_partial(out, header)
        info = {key: value for key, value in header.items() if key != 'images'}  # a path of this machine
        info['config'] = Path(config).name
        info['unreadable'] = {name: records[name]['error'] for name in names if 'error' in records[name]}
        dropped = Counter[str]()
        for record in records.values():
            dropped.update(record.get('dropped', {}))
        info['dropped'] = dict(dropped)
        readable = ((name, _detections(records[name])) for name in names if 'error' not in records[name])
        content = write_coco(out, readable, detector.classes, info)
        for path in _partials(out):
            path.unlink()
        return content


def _partial(out: Path, rank: int = 0) -> Path:
    return out.with_name(f'{out.name}.partial{f"-{rank}" if rank else ""}.jsonl')


def _partials(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f'{glob.escape(out.name)}.partial*.jsonl'))


def _start(out: Path, header: dict) -> list[str]:
    """Gather what unfinished runs left in one file, without lines that were cut off; names of the images done."""
    done = _read_partial(out, header)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(_partial(out), ''.join(json.dumps(row) + '\n' for row in [header, *done.values()]))
    for path in _partials(out):
        if path != _partial(out):
            path.unlink()
    return list(done)


def _record(detected: Detected) -> dict[str, Any]:
    """A line of the journal: file_name, height, width and objects [x, y, w, h, score, label], or error."""
    name, found, dropped = detected
    if isinstance(found, str):
        return {'file_name': name, 'error': found}
    height, width = found.image_size
    return {'file_name': name, 'height': height, 'width': width, 'objects': found.to_rows(), 'dropped': dropped}


def _detections(record: dict[str, Any]) -> Detections:
    return Detections.from_rows(record['objects'], (record['height'], record['width']))


def _model_and_pipeline(cfg: Config) -> dict[str, Any]:
    return {'model': cfg.model.to_dict(), 'test': cfg.test_dataloader.dataset.to_dict()}


def _read_partial(out: Path, header: dict) -> dict[str, dict]:
    """Records of an unfinished run, by file name; lines that were cut off are left out."""
    records: dict[str, dict[str, Any]] = {}
    for path in _partials(out):
        rows = [
            json.loads(line) for line in path.read_text(encoding='utf-8').splitlines(keepends=True) if line[-1] == '\n'
        ]
        if rows:
            first = rows.pop(0)
            different = [key for key in header if first.get(key) != header[key]]
            if different:
                raise FileExistsError(
                    f'{path} was started with another {", ".join(different)}; delete it to start again, or choose '
                    'another --out'
                )
        records |= {row['file_name']: row for row in rows}
    return records
