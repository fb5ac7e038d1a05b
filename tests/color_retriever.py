"""A retriever with known answers: images by their mean color, captions by the colors they name."""

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch.nn.functional import normalize

PIPELINE = [
    dict(type='galr_mm.LoadImageWithProposals'),
    dict(type='mmengine.Resize', scale=(16, 16)),
    dict(type='galr_mm.PackRetrievalInputs'),
]
COLORS = dict(red=(40, 40, 200), green=(40, 200, 40), blue=(200, 40, 40), gray=(120, 120, 120))  # BGR


class ColorRetriever(BaseModel):
    """Embeddings are L2-normalized mean colors; ``calls`` counts the batches of images."""

    def __init__(self):
        super().__init__(dict(type='mmpretrain.MultiModalDataPreprocessor', mean=[0] * 3, std=[255] * 3, to_rgb=True))
        self._config = Config(dict(test_dataloader=dict(dataset=dict(pipeline=PIPELINE))))
        self.calls = 0

    def extract_feat(self, images, data_samples=None):
        self.calls += 1
        return dict(image_feat=normalize(images.float().mean(dim=(2, 3)), dim=1))

    def encode_text(self, texts):
        named = [[color[::-1] for name, color in COLORS.items() if name in text] for text in texts]
        return normalize(
            torch.tensor(np.array([np.mean(colors, axis=0) for colors in named]), dtype=torch.float32), dim=1
        )

    def forward(self, *args, **kwargs):
        raise NotImplementedError


def draw_color_set(folder, count=4, side=48):
    """Karpathy records of ``count`` noisy images a color, written to ``folder``/images as red_0.png and so on."""
    rng, records = np.random.default_rng(0), []
    (folder / 'images').mkdir(parents=True)
    for name, color in COLORS.items():
        for number in range(count):
            image = (np.array(color) + rng.normal(0, 20, (side, side, 3))).clip(0, 255).astype(np.uint8)
            filename = f'{name}_{number}.png'
            cv2.imwrite(str(folder / 'images' / filename), image)
            texts = (f'a {name} field .', f'the field is {name} all over')
            records.append(dict(filename=filename, split='test', sentences=[dict(raw=text) for text in texts]))
    return records
