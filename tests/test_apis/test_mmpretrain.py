"""mmpretrain's retrieval inferencers run our models."""

import pytest
import torch
from mmengine.config import Config
from mmpretrain import ImageToTextRetrievalInferencer, TextToImageRetrievalInferencer

from galr_mm.apis import encode_images, init_model
from tests.helpers import ROOT

TINY = str(ROOT / 'tests/data/clip/tiny-vit.json')
TEXTS = ['a red house', 'a blue pond', 'many trees', 'two roads']


@pytest.fixture(params=['galr', pytest.param('clip', marks=pytest.mark.clip)])
def model(request, mini_config):
    torch.manual_seed(0)
    cfg = Config.fromfile(mini_config)
    if request.param == 'clip':
        cfg.model = dict(type='galr_mm.OpenCLIPRetriever', model_name=TINY)
        cfg.data_preprocessor = None
        steps = [dict(type='galr_mm.OpenCLIPPreprocess', model_name=TINY), dict(type='galr_mm.PackRetrievalInputs')]
        cfg.test_dataloader.dataset.pipeline = steps
    return init_model(cfg)


def test_text_to_image(model, mini):
    files = [str(path) for path in sorted((mini / 'images').glob('*'))[:6]]
    inferencer = TextToImageRetrievalInferencer(model, prototype=files, device='cpu')
    expected = model.encode_text(TEXTS) @ encode_images(model, files).t()
    for row, result in zip(expected, inferencer(TEXTS, topk=3), strict=True):
        scores, indices = row.topk(3)
        assert [match['sample']['img_path'] for match in result] == [files[i] for i in indices]
        torch.testing.assert_close(torch.stack([m['match_score'] for m in result]), scores, atol=1e-5, rtol=0)


def test_image_to_text(model, mini):
    files = [str(path) for path in sorted((mini / 'images').glob('*'))[:3]]
    inferencer = ImageToTextRetrievalInferencer(model, prototype=TEXTS, device='cpu')
    expected = encode_images(model, files) @ model.encode_text(TEXTS).t()
    for row, result in zip(expected, inferencer(files, topk=2), strict=True):
        assert [match['text'] for match in result] == [TEXTS[i] for i in row.topk(2).indices]
