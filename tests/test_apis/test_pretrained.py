"""The weights that come with the package."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain import TextToImageRetrievalInferencer
from safetensors import safe_open

from galr_mm.apis import encode_images, encode_texts, get_model, list_models, pretrained_models
from galr_mm.apis.hub import WEIGHTS
from tests.helpers import ROOT, environment, run_tool

# without data, extras or a checkout's working folder
ALONE = """
import sys
for name in ('mmdet', 'open_clip'):
    sys.modules[name] = None  # importing it fails, as where it is not installed
import numpy as np
from galr_mm.apis import encode_images, encode_texts, get_model
model = get_model(sys.argv[1], pretrained=True)
images = [np.random.default_rng(i).integers(0, 255, (100, 120, 3), dtype=np.uint8) for i in range(3)]
scores = encode_texts(model, ['many planes are parked', 'a river']) @ encode_images(model, images).t()
assert scores.shape == (2, 3) and scores.isfinite().all()
"""


def needs(name):
    """The marks of a model: the weights of its sentence model come with the extra."""
    return [] if 'gru' in name else [pytest.mark.pretrained, pytest.mark.text]


@pytest.fixture(params=[pytest.param(name, marks=needs(name)) for name in pretrained_models()])
def name(request):
    return request.param


def test_they_are_models_of_the_list():
    assert set(pretrained_models()) <= set(list_models())


def test_file_and_card(name):
    path = WEIGHTS / f'{name}.safetensors'
    assert path.stat().st_size < 40 * 2**20
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
        assert {'data', 'licence', 'commit', 'test_mR'} <= metadata.keys()
        assert {file.get_tensor(key).dtype for key in file.keys()} <= {torch.float16, torch.int64, torch.uint8}  # noqa: SIM118
    card = path.with_suffix('.md').read_text()
    assert 'research use' in card
    assert metadata['test_mR'] in card


def test_it_works_right_after_the_installation(name, tmp_path):
    env = environment()
    env.pop('GALR_DATA_ROOT', None)
    command = [sys.executable, '-c', ALONE, name]
    done = subprocess.run(command, capture_output=True, text=True, env={**env, 'PYTHONPATH': str(ROOT)}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_mmpretrains_inferencer_takes_it(name, mini):
    files = [str(path) for path in sorted((mini / 'images').glob('*'))[:4]]
    model = get_model(name, pretrained=True)
    (found,) = TextToImageRetrievalInferencer(model, prototype=files, device='cpu')('a river', topk=1)
    best = int((encode_texts(model, ['a river']) @ encode_images(model, files).t()).argmax())
    assert found[0]['sample']['img_path'] == files[best]


def test_sentences_find_real_images(name, real_data):
    """Of 120 test images of RSICD, sentences find theirs far more often than by chance."""
    real_data('rsicd/images')
    records = json.loads(real_data('rsicd/dataset_rsicd.json').read_text())['images']
    records = [record for record in records if record['split'] == 'test'][::9][:120]
    model = get_model(name, pretrained=True)
    images = encode_images(model, [real_data('rsicd/images') / record['filename'] for record in records], batch_size=24)
    scores = encode_texts(model, [record['sentences'][0]['raw'] for record in records]) @ images.t()
    ranks = (scores > scores.diagonal()[:, None]).sum(1).numpy()
    assert np.mean(ranks < 10) > 0.5  # by chance 0.083


@pytest.mark.slow
def test_its_numbers(name, real_data, tmp_path):
    """The whole test split gives the mR of the card, but for the rounding of float16."""
    real_data('rsicd/images')
    config = next(ROOT.glob(f'configs/{name}.py'))
    with safe_open(WEIGHTS / f'{name}.safetensors', 'pt') as file:
        expected = float(file.metadata()['test_mR'])
    cfg = Config.fromfile(config)
    model, options = get_model(name, pretrained=True), []
    if hasattr(model.text_encoder, 'vocabulary'):
        model.text_encoder.vocabulary.save(tmp_path / 'vocabulary.json')
        options = ['--cfg-options', f'model.text_encoder.vocabulary={tmp_path}/vocabulary.json']
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'a.pth')
    assert cfg.test_dataloader.dataset.split == 'test'
    done = run_tool('tools/test.py', config, tmp_path / 'a.pth', '--work-dir', tmp_path, *options)
    (row,) = [line for line in done.stdout.splitlines() if line.startswith('raw ')]
    assert float(row.split()[-1]) == pytest.approx(expected, abs=0.1)
