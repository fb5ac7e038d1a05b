"""Run any MMDet detector over many images and keep what it finds as one COCO json.

Work goes to ``<out>.partial.jsonl`` (and ``.partial-1.jsonl`` and so on, a file for each process), one line an image;
the json appears, complete, when the last image is done. An interrupted run goes on after the last complete lines.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.dist import barrier, broadcast_object_list, get_rank, get_world_size, is_main_process
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from galr_mm.detection.detector import build_detector, detector_pipelines, find_in_tiles, find_objects, keep_best
from galr_mm.imagery.tiles import image_size
from galr_mm.utils.io import file_lock, missing_files, write_text

SUFFIXES = {'.jpg', '.jpeg', '.png', '.tif', '.tiff', '.bmp', '.webp'}


def list_images(source: str | Path, img_root: str | Path | None = None) -> tuple[Path, list[str]]:
    """Folder and file names of the images of a folder, of a Karpathy-style json or of a COCO json, in a fixed order.

    Args:
        source: the folder, searched with its sub-folders, or the json.
        img_root: folder of the images of a json; by default ``images`` beside it.

    Raises:
        FileNotFoundError: when ``source`` or a listed image is missing.
        ValueError: when there is no image, or the json is of neither kind.
    """
    source = Path(source)
    if source.is_dir():
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob('*') if p.suffix.lower() in SUFFIXES)
        if not names:
            raise ValueError(f'no images ({", ".join(sorted(SUFFIXES))}) in {source}')
        return source, names
    if not source.is_file():
        raise FileNotFoundError(f'{source} is neither a folder nor a file')
    try:
        images = json.loads(source.read_text(encoding='utf-8'))['images']
        names = list(dict.fromkeys(image.get('filename') or image['file_name'] for image in images))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{source} is neither a Karpathy-style nor a COCO json: {error!r}') from error
    if not names:
        raise ValueError(f'{source} lists no images')
    root = Path(img_root) if img_root else source.parent / 'images'
    missing = missing_files(names, str(root))
    if missing:
        raise FileNotFoundError(f'{len(missing)} images of {source} are not in {root}, such as {missing[0]}')
    return root, names


class DetectorInputs(Dataset):
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
            return {'name': name, 'data': self.pipeline(dict(img_path=str(self.root / name), img_id=index))}
        except Exception as error:  # whatever a decoder raises on a broken file; it is listed in the result
            return {'name': name, 'error': _reason(error)}


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


class Settings(NamedTuple):
    """What decides which objects are kept.

    Args:
        score_thr: leave out lower scores.
        max_per_image: keep the best-scored so many.
        tile: cut images with a longer side into tiles of so many pixels; None never does.
        overlap: pixels that neighboring tiles share.
        merge_iou: of objects of one class in the tiles of an image that overlap more, the best-scored stays.
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


def detect(
    model: nn.Module,
    steps: Sequence[dict],
    root: Path,
    names: Sequence[str],
    settings: Settings,
    batch_size: int = 8,
    num_workers: int = 2,
) -> Iterator[dict]:
    """Yield a record an image, in order: file_name, height, width and objects [x, y, w, h, score, label], or error."""
    for_files, for_arrays = detector_pipelines(steps)
    images = DetectorInputs(root, names, for_files, settings.tile)
    for items in DataLoader(images, batch_size, num_workers=num_workers, collate_fn=list):
        results = iter(find_objects(model, [item['data'] for item in items if 'data' in item]))
        for item in items:
            if 'data' in item:
                objects = next(results)
            elif 'error' not in item:
                try:
                    objects = find_in_tiles(model, for_arrays, root / item['name'], *settings[2:], batch_size)
                except Exception as error:  # as above, for what only decoding shows
                    item['error'] = _reason(error)
            if 'error' in item:
                yield {'file_name': item['name'], 'error': item['error']}
                continue
            found = keep_best(*objects, settings.score_thr, settings.max_per_image)
            yield {
                'file_name': item['name'],
                'height': found.height,
                'width': found.width,
                'objects': found.rows,
            }


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
    model, steps = build_detector(config, checkpoint, device)
    classes = model.dataset_meta['classes']
    header = {
        'images': str(root.resolve()),
        'detector': hashlib.sha256(
            Path(checkpoint).read_bytes() + json.dumps(str(_model_and_pipeline(model.cfg))).encode()
        ).hexdigest(),
        **settings._asdict(),
        'classes': list(classes),
    }
    with ExitStack() as stack:
        shared: list[Any] = [None]
        if is_main_process():
            try:
                stack.enter_context(file_lock(out))
                shared = [_begin(out, header)]
            except (FileExistsError, BlockingIOError) as error:
                shared = [error]
        broadcast_object_list(shared)
        if isinstance(shared[0], Exception):
            raise shared[0]
        done = set(shared[0])
        todo = [name for name in names if name not in done]
        share = todo[get_rank() :: get_world_size()]
        if done and is_main_process():
            print(f'going on after {len(names) - len(todo)} of {len(names)} images from {_partial(out)}', flush=True)
        with (
            _partial(out, get_rank()).open('a', encoding='utf-8') as file,
            tqdm(total=len(share), unit='image', disable=not is_main_process()) as bar,
        ):
            if not is_main_process():
                file.write(json.dumps(header) + '\n')
            for record in detect(model, steps, root, share, settings, batch_size, num_workers):
                file.write(json.dumps(record) + '\n')
                file.flush()
                bar.update()
        barrier()
        if not is_main_process():
            return None
        records = _read_partial(out, header)
        info = {key: value for key, value in header.items() if key != 'images'}  # a path of this machine
        content = to_coco([records[name] for name in names], classes, {**info, 'config': Path(config).name})
        write_text(out, json.dumps(content))
        for path in _partials(out):
            path.unlink()
        return content


def _partial(out: Path, rank: int = 0) -> Path:
    return out.with_name(f'{out.name}.partial{f"-{rank}" if rank else ""}.jsonl')


def _partials(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f'{glob.escape(out.name)}.partial*.jsonl'))


def _begin(out: Path, header: dict) -> list[str]:
    """Gather what unfinished runs left in one file, without lines that were cut off; names of the images done."""
    done = _read_partial(out, header)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(_partial(out), ''.join(json.dumps(row) + '\n' for row in [header, *done.values()]))
    for path in _partials(out):
        if path != _partial(out):
            path.unlink()
    return list(done)


def _model_and_pipeline(cfg: Config) -> dict[str, Any]:
    return {'model': cfg.model.to_dict(), 'test': cfg.test_dataloader.dataset.to_dict()}


def _read_partial(out: Path, header: dict) -> dict[str, dict]:
    """Records of an unfinished run, by file name; lines that were cut off are left out."""
    records = {}
    for path in _partials(out):
        rows = [
            json.loads(line) for line in path.read_text(encoding='utf-8').splitlines(keepends=True) if line[-1] == '\n'
        ]
        if rows:
            first = rows.pop(0)
            different = [key for key in header if first.get(key) != header[key]]
            if different:
                raise FileExistsError(
                    f'{path} was begun with another {", ".join(different)}; delete it to start again, or choose '
                    'another --out'
                )
        records |= {row['file_name']: row for row in rows}
    return records


def to_coco(records: Sequence[dict], classes: Sequence[str], info: dict) -> dict:
    """COCO json of per-image records; images that could not be read are listed under info.unreadable."""
    images, annotations = [], []
    for record in records:
        if 'error' in record:
            continue
        image_id = len(images) + 1
        images.append(dict(id=image_id, file_name=record['file_name'], height=record['height'], width=record['width']))
        for x, y, w, h, score, label in record['objects']:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=label + 1,
                    bbox=[x, y, w, h],
                    area=round(w * h, 2),
                    iscrowd=0,
                    score=score,
                )
            )
    unreadable = {record['file_name']: record['error'] for record in records if 'error' in record}
    return dict(
        info={**info, 'unreadable': unreadable},
        images=images,
        categories=[dict(id=label + 1, name=name) for label, name in enumerate(classes)],
        annotations=annotations,
    )
