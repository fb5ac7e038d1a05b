import pytest
import torch
from mmengine.registry import DefaultScope

from galr_mm.apis import init_model


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
