"""Run any MMDet detector over many pictures and keep what it finds as one COCO json.

Work goes to ``<out>.partial.jsonl``, one line a picture; the json appears, complete, when the last picture is done. An
interrupted run goes on after the last complete line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from galr_mm.utils.io import missing_files, write_text

SUFFIXES = {'.jpg', '.jpeg', '.png', '.tif', '.tiff', '.bmp', '.webp'}


def list_pictures(source: str | Path, img_root: str | Path | None = None) -> tuple[Path, list[str]]:
    """Folder and file names of the pictures of a folder, of a Karpathy-style json or of a COCO json, in a fixed order.

    Args:
        source: the folder, searched with its sub-folders, or the json.
        img_root: folder of the pictures of a json; by default ``images`` beside it.

    Raises:
        FileNotFoundError: when ``source`` or a listed picture is missing.
        ValueError: when there is no picture, or the json is of neither kind.
    """
    source = Path(source)
    if source.is_dir():
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob('*') if p.suffix.lower() in SUFFIXES)
        if not names:
            raise ValueError(f'no pictures ({", ".join(sorted(SUFFIXES))}) in {source}')
        return source, names
    if not source.is_file():
        raise FileNotFoundError(f'{source} is neither a folder nor a file')
    try:
        images = json.loads(source.read_text(encoding='utf-8'))['images']
        names = list(dict.fromkeys(image.get('filename') or image['file_name'] for image in images))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{source} is neither a Karpathy-style nor a COCO json: {error!r}') from error
    if not names:
        raise ValueError(f'{source} lists no pictures')
    root = Path(img_root) if img_root else source.parent / 'images'
    missing = missing_files(names, str(root))
    if missing:
        raise FileNotFoundError(f'{len(missing)} pictures of {source} are not in {root}, such as {missing[0]}')
    return root, names


class Pictures(Dataset):
    """Pictures through a detector's own test pipeline; one that cannot be read gives its error instead."""

    def __init__(self, root: Path, names: Sequence[str], pipeline: Compose) -> None:
        self.root, self.names, self.pipeline = root, names, pipeline

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """File name with either the detector's input or an error text."""
        name = self.names[index]
        try:
            return {'name': name, 'data': self.pipeline(dict(img_path=str(self.root / name), img_id=index))}
        except Exception as error:  # whatever a decoder raises on a broken file; it is listed in the result
            return {'name': name, 'error': f'{type(error).__name__}: {error}'}


def build_detector(config: str | Path, checkpoint: str | Path, device: str = 'cpu') -> tuple[nn.Module, Compose]:
    """An MMDet detector and its own test pipeline without the loading of annotations; no global scope is left behind.

    Raises:
        FileNotFoundError: when config or checkpoint is missing.
        ValueError: when the checkpoint is another detector's.
    """
    for path in (config, checkpoint):
        if not Path(path).is_file():
            raise FileNotFoundError(f'no file at {path}')
    with DefaultScope.overwrite_default_scope('mmdet'):
        from mmdet.apis import init_detector
        from mmdet.utils import get_test_pipeline_cfg

        model = init_detector(str(config), str(checkpoint), device=device)
        _require_weights(model, checkpoint)
        steps = [step for step in get_test_pipeline_cfg(model.cfg) if 'LoadAnnotations' not in step['type']]
        return model, Compose(steps)


def _require_weights(model: nn.Module, checkpoint: str | Path) -> None:
    """Refuse a checkpoint of another detector (MMDet only logs what is missing) and find the names of its classes."""
    content = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
    weights = {key.removeprefix('module.'): value for key, value in content.get('state_dict', content).items()}
    own = model.state_dict()
    wrong = [key for key, value in own.items() if getattr(weights.get(key), 'shape', None) != value.shape]
    if wrong:
        raise ValueError(
            f'{checkpoint} does not fit the detector: {len(wrong)} of {len(own)} weights are missing or of another '
            f'shape, such as {wrong[0]}'
        )
    if 'dataset_meta' not in content.get('meta', {}):
        metainfo = model.cfg.test_dataloader.dataset.get('metainfo', {})
        if 'classes' not in metainfo:
            raise ValueError(
                f'neither {checkpoint} nor the config names the classes; set metainfo of the test data set'
            )
        model.dataset_meta = dict(metainfo)


@torch.no_grad()
def detect(
    model: nn.Module, pictures: Pictures, score_thr: float, max_per_image: int, batch_size: int, num_workers: int
) -> Iterator[dict]:
    """Yield a record a picture, in order: file_name, height, width and objects [x, y, w, h, score, label], or error."""
    loader = DataLoader(pictures, batch_size, num_workers=num_workers, collate_fn=list)
    for items in loader:
        good = [item for item in items if 'data' in item]
        with DefaultScope.overwrite_default_scope('mmdet'):
            results = iter(model.test_step(pseudo_collate([item['data'] for item in good])) if good else ())
        for item in items:
            if 'error' in item:
                yield {'file_name': item['name'], 'error': item['error']}
                continue
            result = next(results)
            height, width = result.ori_shape[:2]
            found = result.pred_instances
            limit = found.bboxes.new_tensor([width, height, width, height])
            found.bboxes = found.bboxes.clamp(min=0).minimum(limit)
            visible = (found.bboxes[:, 2:] > found.bboxes[:, :2]).all(1)
            found = found[visible & (found.scores >= score_thr)]
            found = found[found.scores.argsort(descending=True, stable=True)][:max_per_image]
            boxes = found.bboxes.double()
            boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).round(decimals=2)
            rows = zip(boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
            yield {
                'file_name': item['name'],
                'height': height,
                'width': width,
                'objects': [[*box, round(score, 5), label] for box, score, label in rows],
            }


def extract_proposals(
    config: str | Path,
    checkpoint: str | Path,
    source: str | Path,
    out: str | Path,
    img_root: str | Path | None = None,
    score_thr: float = 0.1,
    max_per_image: int = 100,
    batch_size: int = 8,
    num_workers: int = 2,
    device: str = 'cpu',
) -> dict:
    """Detect objects in all pictures of ``source`` and write them to ``out``, a COCO json.

    Returns:
        What was written.

    Raises:
        FileExistsError: when an unfinished run with other settings lies beside ``out``.
    """
    out = Path(out)
    root, names = list_pictures(source, img_root)
    model, pipeline = build_detector(config, checkpoint, device)
    classes = model.dataset_meta['classes']
    header = {
        'detector': hashlib.sha256(
            Path(checkpoint).read_bytes() + json.dumps(str(_model_and_pipeline(model.cfg))).encode()
        ).hexdigest(),
        'score_thr': score_thr,
        'max_per_image': max_per_image,
        'classes': list(classes),
    }
    partial = out.with_name(out.name + '.partial.jsonl')
    done = _read_partial(partial, header)
    todo = [name for name in names if name not in done]
    if done:
        print(f'going on after {len(names) - len(todo)} of {len(names)} pictures from {partial}', flush=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    # rewritten without a last line that was cut off
    write_text(partial, ''.join(json.dumps(row) + '\n' for row in [header, *done.values()]))
    bar = tqdm(total=len(names), initial=len(names) - len(todo), unit='picture')
    with partial.open('a', encoding='utf-8') as file, bar:
        pictures = Pictures(root, todo, pipeline)
        for record in detect(model, pictures, score_thr, max_per_image, batch_size, num_workers):
            file.write(json.dumps(record) + '\n')
            file.flush()
            done[record['file_name']] = record
            bar.update()
    content = to_coco([done[name] for name in names], classes, {**header, 'config': Path(config).name})
    write_text(out, json.dumps(content))
    partial.unlink()
    return content


def _model_and_pipeline(cfg: Config) -> dict[str, Any]:
    return {'model': cfg.model.to_dict(), 'test': cfg.test_dataloader.dataset.to_dict()}


def _read_partial(partial: Path, header: dict) -> dict[str, dict]:
    """Records of an unfinished run, by file name; a last line that was cut off is left out."""
    if not partial.exists():
        return {}
    rows = []
    for line in partial.read_text(encoding='utf-8').splitlines(keepends=True):
        if line.endswith('\n'):
            rows.append(json.loads(line))
    if not rows:
        return {}
    different = [key for key in header if rows[0].get(key) != header[key]]
    if different:
        raise FileExistsError(
            f'{partial} was begun with another {", ".join(different)}; delete it to start again, or choose another '
            '--out'
        )
    return {row['file_name']: row for row in rows[1:]}


def to_coco(records: Sequence[dict], classes: Sequence[str], info: dict) -> dict:
    """COCO json of per-picture records; pictures that could not be read are listed under info.unreadable."""
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
