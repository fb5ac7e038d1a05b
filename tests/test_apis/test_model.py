import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from safetensors import safe_open

from galr_mm.apis import get_model, init_model
from galr_mm.cli.publish_model import main as publish_model_main


def test_weights_and_scope(mini_config, tmp_path):
    DefaultScope.get_instance('before_init_model', scope_name='mmdet')
    model = init_model(mini_config)
    assert DefaultScope.get_current_instance().scope_name == 'mmdet'
    assert not model.training
    assert type(model.data_preprocessor).__name__ == 'MultiModalDataPreprocessor'
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'a.pth')
    again = init_model(mini_config, tmp_path / 'a.pth')
    captions = ['two white airplanes']
    torch.testing.assert_close(again.encode_text(captions), model.encode_text(captions))


def test_incomplete_weights_are_an_error(mini_config, tmp_path):
    state = init_model(mini_config).state_dict()
    state.pop('visual.solo_fc.weight')
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    with pytest.raises(RuntimeError, match='visual.solo_fc.weight'):
        init_model(mini_config, tmp_path / 'a.pth')


def test_missing_files(mini_config):
    with pytest.raises(FileNotFoundError, match='nowhere.py'):
        init_model('nowhere.py')
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        init_model(mini_config, 'nowhere.pth')


def test_a_published_checkpoint_needs_no_vocabulary_file(mini_config, tmp_path):
    """Half the size, no code in it, the words inside, and features that differ by the rounding of float16."""
    model = init_model(mini_config)
    torch.save({'state_dict': model.state_dict(), 'optimizer': {}}, tmp_path / 'a.pth')
    out = tmp_path / 'a.safetensors'
    publish_model_main([str(tmp_path / 'a.pth'), '--out', str(out), '--note', 'data=mini=1'])
    assert out.stat().st_size < 0.6 * (tmp_path / 'a.pth').stat().st_size
    with safe_open(out, 'pt') as file:
        assert file.metadata() == dict(data='mini=1')
    config = Config.fromfile(mini_config)
    config.model.text_encoder.vocabulary = str(tmp_path / 'gone.json')
    with pytest.raises(FileNotFoundError, match='gone.json'):
        init_model(config)
    again = init_model(config, out)
    assert again.text_encoder.vocabulary.words == model.text_encoder.vocabulary.words
    assert config.model.text_encoder.vocabulary == str(tmp_path / 'gone.json')
    captions = ['two white airplanes', 'a river']
    torch.testing.assert_close(again.encode_text(captions), model.encode_text(captions), atol=2e-3, rtol=0)
    assert next(again.parameters()).dtype == torch.float32


def test_checkpoints_of_before_have_no_words(mini_config, tmp_path):
    model = init_model(mini_config)
    state = model.state_dict()
    state.pop('text_encoder.vocabulary_words')
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    again = init_model(mini_config, tmp_path / 'a.pth')
    torch.testing.assert_close(again.encode_text(['a river']), model.encode_text(['a river']))


def test_what_cannot_be_published(mini_config, tmp_path):
    torch.save({'state_dict': {'a.weight': torch.tensor([1.0, 1e6])}}, tmp_path / 'a.pth')
    with pytest.raises(SystemExit, match='a.weight holds values that float16 does not: 1e.06'):
        publish_model_main([str(tmp_path / 'a.pth'), '--out', str(tmp_path / 'a.safetensors')])
    assert not (tmp_path / 'a.safetensors').exists()
    with pytest.raises(SystemExit, match='no checkpoint at'):
        publish_model_main([str(tmp_path / 'b.pth'), '--out', str(tmp_path / 'a.safetensors')])
    with pytest.raises(SystemExit, match='ends in .safetensors'):
        publish_model_main([str(tmp_path / 'a.pth'), '--out', str(tmp_path / 'a.pth')])


@pytest.mark.parametrize('value', [float('nan'), float('-inf')])
def test_weights_that_are_not_finite_are_named(mini_config, tmp_path, value):
    state = init_model(mini_config).state_dict()
    state['visual.solo_fc.weight'][0, 0] = value
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    with pytest.raises(
        ValueError, match=r'a\.pth cannot be used: 1 of \d+ values of its weight visual\.solo_fc\.weight'
    ):
        init_model(mini_config, tmp_path / 'a.pth')


@pytest.mark.parametrize('build', [init_model, get_model])
def test_what_is_no_config(build):
    with pytest.raises(TypeError, match='a config or its path, got None'):
        build(None)
    with pytest.raises(ValueError, match=r'has no model: expected model = dict\(type=\.\.\.\)'):
        build(Config(dict(size=3)), backbone=dict(depth=18))
