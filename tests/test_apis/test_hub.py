"""Shipped configs by their names, in our list and in mmpretrain's."""

import re
import subprocess
import sys
from pathlib import Path

import mmpretrain
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.apis.model import ModelHub
from modelindex.load_model_index import load

from galr_mm.apis import encode_images, get_model, list_models
from galr_mm.apis.hub import MIM, NAMES, register_models
from galr_mm.models import DualEncoder, GaLR
from galr_mm.text import Vocabulary
from tests.helpers import ROOT, run_tool

CONFIGS = {path.stem: path for path in (ROOT / 'configs').rglob('*.py') if '_base_' not in path.parts}
RETRIEVAL = ['Image-To-Text Retrieval', 'Text-To-Image Retrieval']


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data root with the vocabulary of UCM-captions."""
    (tmp_path / 'ucm').mkdir()
    Vocabulary.from_captions(['a plane', 'two ships']).save(tmp_path / 'ucm/vocabulary.json')
    monkeypatch.setenv('GALR_DATA_ROOT', str(tmp_path))
    return tmp_path


@pytest.fixture(scope='module')
def index():
    return load(str(MIM / 'model-index.yml'))


def test_every_config_is_in_the_index_and_every_entry_is_a_config(index):
    assert sorted(model.name for model in index.models) == sorted(CONFIGS) == list_models()
    collections = {collection.name for collection in index.collections}
    assert {model.in_collection for model in index.models} == collections
    for model in index.models:
        assert (ROOT / model.config).resolve() == CONFIGS[model.name]
        tasks = ['Object Detection'] if 'detection' in model.config else RETRIEVAL
        assert [result.task for result in model.results] == tasks
        assert len({result.dataset for result in model.results}) == 1
        assert Path(ModelHub._models_dict[model.name].config).samefile(CONFIGS[model.name])
    for metafile in (ROOT / 'configs').rglob('metafile.yml'):
        assert f'- {metafile.relative_to(ROOT).as_posix()}\n' in (ROOT / 'model-index.yml').read_text()


def test_numbers_are_those_of_the_results(index):
    page = (ROOT / 'docs/results_from_scratch.md').read_text()
    for model in index.models:
        for result in model.results:
            metrics = result.metrics or {}
            if not metrics:
                continue
            if result.task in RETRIEVAL:
                assert list(metrics) == ['Recall@1', 'Recall@5', 'Recall@10']
                assert ' / '.join(f'{value:.2f}' for value in metrics.values()) in page
            else:
                assert list(metrics) == ['box AP']
                assert f'| {metrics["box AP"]:.1f} |' in page


def test_list_models():
    assert list_models('galr_ucm') == ['galr_ucm', 'galr_ucm_128px']
    assert list_models('*nwpu') == ['faster-rcnn_r18_nwpu', 'rtmdet-lite0_nwpu', 'rtmdet-tiny_nwpu']
    assert list_models('resnet') == []
    detectors = sorted(name for name, path in CONFIGS.items() if path.parent.name == 'detection')
    assert list_models(task='Object Detection') == detectors
    for task in RETRIEVAL:
        assert list_models(task=task) == sorted(NAMES - set(detectors))
        theirs = mmpretrain.list_models(task=task)
        assert {'blip-base_3rdparty_retrieval', *list_models(task=task)} <= set(theirs)


def test_mmpretrain_knows_them_after_the_import():
    code = 'import mmpretrain, galr_mm.apis; print(mmpretrain.list_models("galr_mini"))'
    assert run_tool('-c', code).stdout.strip().splitlines()[-1] == "['galr_mini']"


def test_registering_again_changes_nothing():
    before = dict(ModelHub._models_dict)
    assert register_models() == NAMES
    assert before == ModelHub._models_dict


def test_a_model_by_name(data):
    DefaultScope.get_instance('before_get_model', scope_name='mmdet')
    model = get_model('GaLR_ucm', fusion=dict(mode='sum'))
    assert DefaultScope.get_current_instance().scope_name == 'mmdet'
    assert isinstance(model, GaLR)
    assert not model.training
    assert model.fusion.mode == 'sum'
    assert type(model.data_preprocessor).__name__ == 'MultiModalDataPreprocessor'
    assert model._metainfo.name == 'galr_ucm'
    assert isinstance(get_model('dual_encoder_ucm_128px', device='cpu'), DualEncoder)
    assert get_model('galr_ucm').fusion.mode == 'paper'  # the override was of that model alone


def test_path_config_and_weights(mini_config, tmp_path):
    model = get_model(str(mini_config))
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    config = Config.fromfile(mini_config)
    again = get_model(config, pretrained=tmp_path / 'a.pth', text_encoder=dict(dropout=0.5))
    assert again._config.model.text_encoder.dropout == 0.5
    assert config.model.text_encoder.get('dropout') != 0.5  # the caller's config is as it was
    captions = ['two white airplanes']
    torch.testing.assert_close(again.encode_text(captions), model.encode_text(captions))
    with pytest.raises(RuntimeError, match='fusion'):
        get_model(mini_config, pretrained=str(tmp_path / 'a.pth'), fusion=dict(mode='sum'))
    config.load_from = str(tmp_path / 'a.pth')
    torch.testing.assert_close(get_model(config, pretrained=True).encode_text(captions), model.encode_text(captions))


def test_mmpretrain_gives_the_same_model(mini, mini_config, data, tmp_path):
    assert isinstance(mmpretrain.get_model('galr_ucm'), GaLR)
    ours = get_model(mini_config)
    torch.save({'state_dict': ours.state_dict()}, tmp_path / 'a.pth')
    theirs = mmpretrain.get_model(mini_config, pretrained=str(tmp_path / 'a.pth'))
    captions, images = ['two white airplanes'], sorted((mini / 'images').iterdir())[:2]
    torch.testing.assert_close(theirs.encode_text(captions), ours.encode_text(captions))
    torch.testing.assert_close(encode_images(theirs, images), encode_images(ours, images))


@pytest.mark.detect
def test_detectors_build():
    for name, built in (('rtmdet-tiny_nwpu', 'RTMDet'), ('faster-rcnn_r18_nwpu', 'FasterRCNN')):
        model = get_model(name)
        assert type(model).__name__ == built
        assert type(model.data_preprocessor).__name__ == 'DetDataPreprocessor'
        assert type(mmpretrain.get_model(name)) is type(model)


def test_clear_errors(data):
    with pytest.raises(ValueError, match=r"'galr_ucmm'; did you mean galr_ucm.*list_models\(\)"):
        get_model('galr_ucmm')
    with pytest.raises(ValueError, match=r"no model 'resnet18_8xb32_in1k'\. galr_mm.apis.list_models\(\)"):
        get_model('resnet18_8xb32_in1k')
    with pytest.raises(ValueError, match='no weights are published for galr_ucm'):
        get_model('galr_ucm', pretrained=True)
    with pytest.raises(TypeError, match='pretrained is 1, expected True, False or a checkpoint'):
        get_model('galr_ucm', pretrained=1)
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        get_model('galr_ucm', pretrained='nowhere.pth')
    with pytest.raises(FileNotFoundError, match=r'no config at nowhere\.py'):
        get_model('nowhere.py')
    with pytest.raises(FileNotFoundError, match=re.escape(str(data / 'rsicd/vocabulary.json'))):
        get_model('galr_rsicd')


def test_weights_by_a_link(mini_config, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    model = get_model(mini_config)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    command = [sys.executable, '-u', '-m', 'http.server', '0', '--bind', '127.0.0.1', '--directory', tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            port = re.search(r'port (\d+)', server.stdout.readline())[1]
            again = get_model(mini_config, pretrained=f'http://127.0.0.1:{port}/a.pth')
        finally:
            server.terminate()
    captions = ['two white airplanes']
    torch.testing.assert_close(again.encode_text(captions), model.encode_text(captions))
