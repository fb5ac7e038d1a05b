"""``python tests/pool_step.py OUT``: one training step of a small retriever for each of CASES.

One process takes the whole batch; two (torchrun's environment) take its two parts, which hold different counts of
images and captions. OUT is what the weights became, and the loss that was logged, as a mean over the processes.
"""

from __future__ import annotations

import os
import sys

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from galr_mm.models import DualEncoder
from galr_mm.structures import ImageId
from galr_mm.text import Vocabulary

WORDS = ['plane', 'ship', 'road', 'river', 'house']
# (image, captions by the words they begin with): image 1 and the captions 3 and 0 are in both parts
PARTS = [[(0, [0, 1]), (1, [2]), (2, [3, 3, 4])], [(1, [0]), (3, [3, 1])]]
ONE_EACH = [[(0, [0]), (1, [1]), (0, [2])], [(2, [1]), (0, [4]), (3, [3])]]
TWO_SETS = [[(ImageId('a', 0), [0]), (ImageId('b', 0), [1])], [(ImageId('a', 1), [0]), (ImageId('b', 0), [2])]]
CASES = {
    'masked': dict(loss='Contrastive'),
    'not masked': dict(loss='Contrastive', mask_duplicates=False),
    'one caption each': dict(loss='Contrastive', parts=ONE_EACH),
    'ids of words': dict(loss='Contrastive', with_ids=False),
    'two data sets': dict(loss='Contrastive', with_ids=False, parts=TWO_SETS),
    'micro batches': dict(loss='Contrastive', micro_batch=2),
    'triplets': dict(loss='Triplet', margin=0.5),
    'hardest triplets': dict(loss='Triplet', margin=0.5, negatives='hardest'),
    'apart': dict(loss='Contrastive', gather=False),
}


class Flat(DualEncoder):
    """Images through one layer."""

    def __init__(self, **kwargs) -> None:
        super().__init__(None, None, **kwargs)
        self.layer = nn.Linear(12, 8)

    def encode_image(self, images: Tensor, graph: None = None) -> Tensor:
        return F.normalize(self.layer(images.flatten(1).to(self.layer.weight)), dim=-1)


def step(loss: str, parts=PARTS, with_ids=True, micro_batch=None, gather=True, **options) -> dict[str, Tensor]:
    torch.manual_seed(0)
    text = dict(type='galr_mm.BiGRUEncoder', vocabulary=Vocabulary(['<pad>', '<unk>', *WORDS]), embed_dim=8)
    model = Flat(
        text_encoder=text | dict(word_dim=6, hidden_dim=6),
        loss=dict(type=f'galr_mm.{loss}Loss', gather=gather, **options),
        data_preprocessor=dict(type='mmpretrain.MultiModalDataPreprocessor'),
        micro_batch=micro_batch,
    ).double()
    images = torch.randn(sum(map(len, parts)), 3, 2, 2)
    rows = [row for part in parts for row in part]
    if get_world_size() > 1:
        first = get_rank() * len(parts[0])
        rows = parts[get_rank()]
        images = images[first : first + len(rows)]
    samples = []
    for image, captions in rows:
        sample = DataSample(metainfo=dict(image_id=image), text=[f'{WORDS[caption]} road' for caption in captions])
        if with_ids:
            sample.caption_id = captions
        samples.append(sample)
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    trained = model if get_world_size() == 1 else MMDistributedDataParallel(model)
    logged = trained.train_step(dict(inputs=images, data_samples=samples), optim)['loss'].detach()
    all_reduce(logged, 'mean')
    return {**model.state_dict(), 'logged': logged}


if __name__ == '__main__':
    if 'WORLD_SIZE' in os.environ:
        torch.distributed.init_process_group('gloo')
    result = {name: step(**case) for name, case in CASES.items()}
    if get_rank() == 0:
        torch.save(result, sys.argv[1])
    if 'WORLD_SIZE' in os.environ:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
