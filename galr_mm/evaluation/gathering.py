"""From the samples that a model predicts, on any number of processes, to the scores of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from itertools import zip_longest
from typing import Any

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.structures import BaseDataElement
from torch import Tensor

from galr_mm.messages import shorten
from galr_mm.structures import ImageId, QueryBank, RetrievalResult, RetrievalScores


def record_of(sample: BaseDataElement | Mapping) -> dict[str, Any]:
    """What counts of a sample that ``model(..., mode='predict')`` gave, on the CPU.

    The sample holds ``image_id`` (an :class:`~galr_mm.structures.ImageId` or a number) and ``image_feat`` (D,), and for
    n captions ``text_id``, ``text``, ``text_feat`` (n, D) and, where the text encoder cannot tell all captions apart,
    ``text_key``: n hashables that are equal for captions it takes for the same.

    Raises:
        ValueError: when it is something else.
    """
    image_id = sample.get('image_id') if isinstance(sample, (BaseDataElement, Mapping)) else None
    if image_id is None:
        raise ValueError(
            "retrieval needs a model whose mode='predict' gives a list of samples with image_id and image_feat (D,), "
            'and with text_id and text_feat (n, D) for n captions, under ValLoop or TestLoop; got '
            f'{type(sample).__name__} without image_id'
        )
    text_ids = sample.get('gt_text_id', sample.get('text_id'))
    if isinstance(text_ids, Tensor) or hasattr(text_ids, '__array__'):  # of a foreign data set
        text_ids = text_ids.tolist()
    text_ids = [int(i) for i in _listed(text_ids)]
    texts = _listed(sample.get('text'))
    keys = sample.get('text_key')
    # captions that are not strings, vectors for instance, have no key: each is one of its own
    keys = [text if isinstance(text, str) else None for text in texts] if keys is None else list(keys)
    if not len(text_ids) == len(texts) == len(keys):
        raise ValueError(
            f'image {image_id} has {len(texts)} captions, {len(text_ids)} text ids and {len(keys)} text '
            'keys, expected one of each a caption'
        )
    text_feat = sample.get('text_feat')
    if text_ids and (text_feat is None or text_feat.ndim != 2 or len(text_feat) != len(text_ids)):
        shape = None if text_feat is None else tuple(text_feat.shape)
        raise ValueError(f'image {image_id} has {len(text_ids)} captions, but text_feat {shape}; expected (n, D)')
    return dict(
        image_id=image_id if isinstance(image_id, ImageId) else ImageId('', int(image_id)),
        img_path=sample.get('img_path'),
        image_feat=_cpu(sample.get('image_feat')),
        text_ids=text_ids,
        texts=texts,
        text_keys=keys,
        text_feat=_cpu(text_feat),
    )


def evaluate_gathered(
    records: list[dict], size: int, measure: Callable[[list[dict]], dict[str, float]]
) -> dict[str, float]:
    """Gather the records of all processes, measure them on the main one, and give all processes the result.

    Args:
        records: of this process.
        size: samples of the split; fewer that arrive are an error, more are padding and count once. Where the data set
            repeats all its images as often (RepeatDataset), each counts once too.
        measure: takes the records of the split in the order of their data sets and of the images there.

    Raises:
        RuntimeError: when another number of images arrives.
        ValueError: when one id stands for two images.
    """
    parts = all_gather_object(records)
    result: list[Any] = [None]
    if is_main_process():
        different = in_order(parts)
        repeats, rest = divmod(size, len(different)) if different else (0, size)
        arrived = Counter(record['image_id'] for part in parts for record in part)
        if rest or any(count < repeats for count in arrived.values()):
            raise RuntimeError(f'{len(different)} different images arrived, the data set holds {size}')
        result = [measure(different)]
    broadcast_object_list(result)
    return result[0]


def in_order(parts: list[list[dict]]) -> list[dict]:
    """Records of all processes, each image once, in the order of their data sets and of the images there.

    Data sets are in the order in which their first images come when each process gives one in turn, as mmengine's
    sampler hands them out: that of ConcatDataset.

    Args:
        parts: of each process.

    Raises:
        ValueError: when one id stands for two images.
    """
    different: dict[ImageId, dict] = {}
    for record in (record for turn in zip_longest(*parts, fillvalue={}) for record in turn if record):
        other = different.get(record['image_id'], record)
        if (other['img_path'], other['text_ids']) != (record['img_path'], record['text_ids']):
            raise ValueError(
                f'image id {record["image_id"].row} stands for two images, {other["img_path"]} and '
                f'{record["img_path"]}; data sets whose ids are bare numbers cannot be concatenated'
            )
        different[record['image_id']] = record
    order = {source: place for place, source in enumerate(dict.fromkeys(image_id.source for image_id in different))}
    return [different[key] for key in sorted(different, key=lambda key: (order[key.source], key.row))]


def bank_of(records: list[dict]) -> QueryBank:
    """The features in the records of all processes; what arrives twice counts once.

    Raises:
        ValueError: when there are no images or no captions.
    """
    different = in_order(all_gather_object(records))
    image_feats = [record['image_feat'] for record in different if record['image_feat'] is not None]
    text_feats = [record['text_feat'] for record in different if record['text_ids']]
    if not image_feats or not text_feats:
        raise ValueError(
            f'a query bank needs images and captions, got features of {len(image_feats)} images, and captions of '
            f'{len(text_feats)}'
        )
    return QueryBank(torch.stack(image_feats), torch.cat(text_feats))


def result_of(records: list[dict], bank: QueryBank | None = None) -> RetrievalResult:
    """Cosine scores of the records of a split, one a row; columns are its captions in the order of their ids.

    Text ids count within a data set; those of the next continue after the last of the one before, and so do image ids.

    With a bank the scores hold its similarities to both galleries too. Captions with equal keys get one feature, that
    of the first, so that their ties are exact and the tie rule orders them, not the rounding of a batch.

    Raises:
        ValueError: when there are no images or no captions to compare, or one id stands for two captions.
    """
    captions: dict[int, tuple[Tensor, Any, Hashable]] = {}
    owners: list[tuple[int, int]] = []  # row, text id
    image_ids: list[int] = []
    sources = dict.fromkeys(record['image_id'].source for record in records)
    source = next(iter(sources), '')
    first_image = first_text = 0
    for row, record in enumerate(records):
        if record['image_id'].source != source:
            source = record['image_id'].source
            first_image, first_text = max(image_ids) + 1, max(captions, default=-1) + 1
        image_ids.append(first_image + record['image_id'].row)
        for position, text_id in enumerate(first_text + text_id for text_id in record['text_ids']):
            text, key = record['texts'][position], record['text_keys'][position]
            _, other, _ = captions.setdefault(text_id, (record['text_feat'][position], text, key))
            if isinstance(text, str) and text != other:
                raise ValueError(
                    f'text id {text_id - first_text} stands for two captions, {shorten(other)} and {shorten(text)}'
                )
            owners.append((row, text_id))
    if not captions or any(record['image_feat'] is None for record in records):
        raise ValueError(
            f'retrieval needs images and captions, got {sum(r["image_feat"] is not None for r in records)} images '
            f'and {len(captions)} captions'
        )
    text_ids = sorted(captions)
    first: dict[Hashable, Tensor] = {}
    text_feat = []
    for feat, _, key in (captions[text_id] for text_id in text_ids):
        text_feat.append(feat if key is None else first.setdefault(key, feat))
    column = {text_id: position for position, text_id in enumerate(text_ids)}
    positives = torch.zeros(len(records), len(text_ids), dtype=torch.bool)
    rows, ids = zip(*owners, strict=True)
    positives[list(rows), [column[i] for i in ids]] = True
    image_feat = torch.stack([record['image_feat'] for record in records])
    return RetrievalResult(
        scores={'': RetrievalScores.from_features(image_feat, torch.stack(text_feat), positives, bank)},
        image_ids=image_ids,
        image_paths=[record['img_path'] for record in records],
        text_ids=text_ids,
        texts=[captions[text_id][1] for text_id in text_ids],
        sources=tuple(filter(None, sources)),
    )


def _listed(value: Any) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _cpu(feat: Tensor | None) -> Tensor | None:
    return None if feat is None else feat.detach().float().cpu()
