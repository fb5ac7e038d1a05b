from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from galr_mm.datasets.captions import SPLITS, clean_split, load_karpathy, sentid_problem
from galr_mm.detection import ProposalSet
from galr_mm.imagery.files import ImageFolder, listed_names
from galr_mm.messages import first_of, reason, shorten
from galr_mm.registry import DATASETS
from galr_mm.structures import Detections, ImageId, stable_id
from galr_mm.text import caption_key

CAPTIONS = ('each', 'all')


@DATASETS.register_module()
class ImageTextDataset(BaseDataset):
    """Images with their captions, from a Karpathy-style json.

    RSICD, RSITMD, UCM-captions and Sydney-captions are published in this form;
    ``tools/dataset_converters/convert_captions.py`` turns the released text lists into it.

    In training a sample is one caption: ``img_path``, ``text``, ``image_id``, ``text_id``, ``caption_id``. In test mode
    and with ``captions='all'`` it is one image with all its captions: ``text`` (list), ``text_id`` / ``gt_text_id`` /
    ``gt_image_id`` / ``caption_id`` (lists). With proposals a sample also holds ``detections``
    (:class:`galr_mm.structures.Detections`), which the loading transforms of this package turn into the keys that
    mmcv's transforms move along with the image.

    ``image_id`` is an :class:`~galr_mm.structures.ImageId`, unlike those of other data sets; captions of equal words
    share a ``caption_id`` in whatever data set. So mmengine's ConcatDataset, RepeatDataset and ClassBalancedDataset (by
    the classes of the proposals) may hold such data sets.

    Args:
        ann_file: the json file, relative to ``data_root``.
        split: 'train', 'val' or 'test'.
        data_prefix: ``dict(img_path=...)``, the folder of the images, relative to ``data_root``.
        proposal_file: COCO json of proposals, relative to ``data_root``. 'auto' takes ``proposals.json`` where it
            exists; None takes none.
        max_proposals: keep the N highest-scoring objects of each image.
        sentence_vectors: a .npy (sentences, D), row = ``sentid``, for all splits; samples then hold
            vectors instead of words.
        captions: what a training sample is: 'each' caption with its image, or an image with 'all' its captions. An
            epoch of 'all' is one pass over the images, so an image is encoded once where 'each' encodes it five times.
        **kwargs: of mmengine's BaseDataset.

    Raises:
        FileNotFoundError: when the captions, an image or a named proposal file is missing.
        ValueError: when a file is malformed, the split is empty, a val / test image has no caption, or ``split`` or
            ``captions`` is unknown.
    """

    def __init__(
        self,
        ann_file: str,
        split: str,
        data_prefix: dict | None = None,
        proposal_file: str | None = 'auto',
        max_proposals: int | None = 100,
        sentence_vectors: str | None = None,
        captions: str = 'each',
        **kwargs: Any,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'split is {split!r}, expected one of {SPLITS}')
        if captions not in CAPTIONS:
            raise ValueError(f'captions is {captions!r}, expected one of {CAPTIONS}')
        self.split = split
        self.captions = captions
        self.proposal_file = proposal_file
        self.max_proposals = max_proposals
        self.sentence_vectors = sentence_vectors
        self.proposals: ProposalSet | None = None
        super().__init__(ann_file=ann_file, data_prefix=data_prefix or dict(img_path='images'), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read captions and proposals and check that every image is there."""
        records = load_karpathy(self.ann_file)
        clean = clean_split(records, self.split, self.ann_file)
        if clean.summary():
            print_log(f'{self.ann_file} ({self.split}): {clean.summary()}', 'current')
        if 'img_path' not in self.data_prefix:
            raise ValueError(f'data_prefix is {dict(self.data_prefix)}, expected dict(img_path=...)')
        folder = self.data_prefix['img_path']
        listed = list(map(listed_names, clean.records))
        names = ImageFolder(folder).locate(listed, f'{self.split} images of {self.ann_file}')
        self._load_proposals(names)
        vectors = self._load_vectors(records)

        samples: list[dict[str, object]] = []
        text_id = 0
        for image_id, (name, record) in enumerate(zip(names, clean.records, strict=True)):
            sentences = record['sentences']
            text_ids = list(range(text_id, text_id + len(sentences)))
            text_id += len(sentences)
            texts = [s['raw'] if vectors is None else vectors[s['sentid']] for s in sentences]
            caption_ids = [stable_id(caption_key(s['raw'])) for s in sentences]
            image = dict(img_path=os.path.join(folder, name), file_name=name)
            if self.test_mode or self.captions == 'all':
                samples.append(
                    dict(
                        image,
                        image_id=image_id,
                        text=texts,
                        text_id=text_ids,
                        gt_text_id=text_ids,
                        gt_image_id=[image_id] * len(texts),
                        caption_id=caption_ids,
                    )
                )
            else:
                samples += [
                    dict(image, image_id=image_id, text=text, text_id=text_id, caption_id=caption_id)
                    for text, text_id, caption_id in zip(texts, text_ids, caption_ids, strict=True)
                ]
        self.img_size, self.text_size = len(clean.records), text_id
        self._metainfo.update(
            split=self.split, num_images=self.img_size, num_texts=self.text_size, ann_file=self.ann_file
        )
        return samples

    def _load_proposals(self, file_names: list[str]) -> None:
        if self.proposal_file is None:
            return
        root = Path(self.data_root or '.')
        path = root / ('proposals.json' if self.proposal_file == 'auto' else self.proposal_file)
        if self.proposal_file == 'auto' and not path.is_file():
            print_log(
                f'{self.split}: no proposals at {path}, so images come without objects. Make them with `python '
                f'tools/extract_proposals.py DET_CONFIG DET_CKPT {self.data_prefix["img_path"]} --out {path}`',
                'current',
            )
            return
        self.proposals = ProposalSet(path, self.max_proposals)
        absent = self.proposals.absent(file_names)
        if len(absent) == len(file_names):
            raise ValueError(
                f'{path} knows none of the {len(absent)} {self.split} images, such as {shorten(file_names[0])}'
            )
        print_log(
            f'{self.split}: proposals of {len(file_names) - len(absent)} of {len(file_names)} images from {path}'
            + (f'; {len(absent)} are not in it and come without objects: {first_of(absent)}' if absent else ''),
            'current',
            logging.WARNING if absent else logging.INFO,
        )
        self._metainfo['proposal_classes'] = self.proposals.classes

    def _load_vectors(self, records: list[dict]) -> np.ndarray | None:
        if self.sentence_vectors is None:
            return None
        path = Path(self.data_root or '.') / self.sentence_vectors
        if not path.is_file():
            raise FileNotFoundError(f'no sentence vectors at {path}')
        problem = sentid_problem(records)  # one file of vectors serves all splits
        if problem:
            raise ValueError(
                f'{self.ann_file}: sentence vectors need sentences with a sentid, the row of their vector; {problem}. '
                'tools/dataset_converters/convert_captions.py numbers them anew'
            )
        rows = 1 + max(s['sentid'] for record in records for s in record['sentences'])
        expected = f'expected a .npy of real numbers ({rows}, D), one row a sentid of {self.ann_file}'
        try:
            vectors = np.lib.format.open_memmap(path, mode='r')
        except Exception as error:  # a broken file makes its reader raise anything
            raise ValueError(f'{path} cannot be read: {reason(error)}; {expected}') from error
        if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1] or vectors.dtype.kind not in 'fiu':
            raise ValueError(f'{path} has shape {vectors.shape} and type {vectors.dtype}, {expected}')
        with np.errstate(over='ignore'):  # what float32 cannot hold is infinite, and told below
            vectors = np.asarray(vectors, dtype=np.float32)
        broken = ~np.isfinite(vectors).all(axis=1)
        if broken.any():
            raise ValueError(f'{path}: {broken.sum()} rows hold NaN or infinity, such as {broken.argmax()}; {expected}')
        return vectors

    @cached_property
    def _source(self) -> str:
        return f'split {self.split!r} of {self.ann_file} with the images of {self.data_prefix["img_path"]}'

    @cached_property
    def _folder(self) -> str:
        return os.path.realpath(self.data_prefix['img_path'])

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of the proposals of sample ``idx``, for mmengine's ClassBalancedDataset.

        Raises:
            ValueError: when there are no proposals.
        """
        sample = self.get_data_info(idx)
        if 'detections' not in sample:
            raise ValueError(
                f'{self.ann_file}: balancing classes needs proposals, whose classes are those of an image; set '
                'proposal_file'
            )
        return sample['detections'].labels.unique().tolist()

    def get_data_info(self, idx: int) -> dict:
        """Sample ``idx`` before the pipeline, with its proposals."""
        sample = super().get_data_info(idx)
        sample['image_id'] = ImageId(self._source, sample['image_id'], os.path.join(self._folder, sample['file_name']))
        if self.proposals is not None:
            found = self.proposals.get(sample['file_name'])
            # an image that the file does not know has no objects
            sample['detections'] = Detections.empty() if found is None else found
        return sample
