"""``size``, ``batch_size`` and ``max_epochs`` as lines of a child config, and lines that would change nothing."""

import re

import pytest
from mmengine.config import Config

from galr_mm.apis import init_model
from galr_mm.cli.common import read_config
from galr_mm.utils.config import ConfigLineError, read_config_file
from tests.helpers import DETECTOR_CONFIG, ROOT

UCM = ROOT / 'configs/galr_ucm_128px.py'
BASES = [f'{ROOT}/configs/_base_/{name}.py' for name in (
    'datasets/image_text_256px', 'models/galr_resnet18', 'schedules/adamw_cosine', 'default_runtime',
)]  # fmt: skip


@pytest.fixture
def child(tmp_path):
    def write(text, base=UCM, name='child.py'):
        path = tmp_path / name
        path.write_text(f'_base_ = {str(base) if isinstance(base, list) else repr(str(base))}\n{text}\n')
        return path

    return write


def sizes(cfg):
    """Pixels of the three pipelines, in order."""
    steps = [s for split in ('train', 'val', 'test') for s in cfg[f'{split}_dataloader'].dataset.pipeline]
    return [s[key] for s in steps for key in ('scale', 'crop_size') if key in s]


def test_three_lines(child):
    cfg = read_config_file(child('size = 96\nbatch_size = 7\nmax_epochs = 3'))
    assert sizes(cfg) == [(96, 96), 96, (96, 96), (96, 96)]
    assert cfg.train_dataloader.batch_size == 7
    assert cfg.train_cfg.max_epochs == 3
    before = Config.fromfile(UCM)
    assert cfg.val_dataloader.batch_size == before.val_dataloader.batch_size
    assert cfg.model == before.model


def test_the_recipe_keeps_its_proportions(child):
    cfg = read_config_file(child('size = 96', BASES))
    assert sizes(cfg) == [(104, 104), 96, (96, 96), (96, 96)]  # 278 and 256


@pytest.mark.detect
def test_a_detector(child):
    cfg = read_config_file(child('size = (96, 96)\nmax_epochs = 5', DETECTOR_CONFIG))
    assert sizes(cfg) == [(96, 96)] * 3
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].T_max == 5


def test_a_child_of_a_child(child):
    parent = child('size = 96\nbatch_size = 7', name='parent.py')
    assert sizes(read_config_file(child('', parent))) == [(96, 96), 96, (96, 96), (96, 96)]
    below = read_config_file(child('size = 64\ntrain_dataloader = dict(batch_size=8)', parent))
    assert sizes(below)[-1] == (64, 64)
    assert below.train_dataloader.batch_size == 8


def test_options_of_the_command_line(child):
    path = child('batch_size = 7\nsize = 96')
    cfg = read_config(str(path), dict(batch_size=5, size=64))
    assert (cfg.train_dataloader.batch_size, sizes(cfg)[-1]) == (5, (64, 64))
    assert read_config(str(path), {'train_dataloader.batch_size': 9}).train_dataloader.batch_size == 9
    assert read_config(str(UCM), dict(max_epochs=2)).train_cfg.max_epochs == 2
    with pytest.raises(SystemExit, match='data_root is copied into other settings'):
        read_config(str(path), dict(data_root='/x'))


def test_the_api_reads_them_too(child, mini):
    text = f"size = 64\nmodel = dict(text_encoder=dict(vocabulary='{mini}/vocabulary.json'))"
    assert init_model(child(text)).cfg.test_dataloader.dataset.pipeline[1].scale == (64, 64)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("data_root = '/x/'", 'data_root is copied into other settings'),
        ("train_pipeline = [dict(type='galr_mm.LoadImageWithProposals')]", 'train_pipeline is copied'),
        ('batch_size = 7\ntrain_dataloader = dict(batch_size=8)', 'batch_size = 7 and sets the same in full'),
        ("size = '96'", "size is '96', expected a whole number of 1 or more"),
        ('size = (96, 64)', 'size is (96, 64)'),
        ('batch_size = 0', 'batch_size is 0'),
        ('max_epoch = 3', 'max_epoch is read by nothing; did you mean max_epochs?'),
        ('batchsize = 3', 'batchsize is read by nothing; did you mean batch_size?'),
        ('max_epochs = True', 'max_epochs is True'),
        ("max_epochs = 3\ntrain_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=9)", 'in full'),
    ],
)
def test_lines_that_cannot_do_what_they_say(child, text, message):
    with pytest.raises(ConfigLineError, match=re.escape(message)):
        read_config_file(child(text))
    with pytest.raises(SystemExit, match=re.escape(message)):
        read_config(str(child(text)), None)


@pytest.mark.parametrize(('line', 'message'), [('size = 96', 'a CLIP brings'), ('batch_size = 2', 'no train_data')])
def test_nothing_to_set(child, line, message):
    with pytest.raises(ConfigLineError, match=message):
        read_config_file(child(line, ROOT / 'configs/clip/clip_vit-b-32_zero-shot_ucm.py'))


def test_what_a_file_reads_itself_is_its_own_business(child):
    assert read_config_file(child('max_epoch = 3\ntrain_cfg = dict(max_epochs=max_epoch)')).train_cfg.max_epochs == 3
    assert read_config_file(child('my_setting = 3')).my_setting == 3
    cfg = read_config_file(
        child('size = 60\nbatch_size = 8\ntrain_dataloader = dict(batch_size=2 * batch_size)\nx = size')
    )
    assert cfg.train_dataloader.batch_size == 16
    assert sizes(cfg)[-1] == (128, 128)


def test_a_flag_for_a_hook_of_ones_own(child):
    parent = child('my_flag = 1', name='parent.py')
    assert read_config_file(child('my_flag = 2', parent)).my_flag == 2


def test_a_foreign_config(child):
    base = child("size = 3\nbatch_size = 4\nmodel = dict(type='A', size=size)", [], 'base.py')
    cfg = read_config_file(child("size = 'big'\nbatch_size = 5\nmax_epochs = 0\ndata_root = 1", base))
    assert (cfg.size, cfg.model.size) == ('big', 3)


@pytest.mark.parametrize(
    'base',
    [f"'{ROOT}/configs/galr_ucm' + '_128px.py'", f"osp.join('{ROOT}/configs', 'galr_ucm_128px.py')",
     f"'{{{{ fileDirname }}}}/../../../../../../../..{UCM}'",
     "'galr_mm::_base_/../galr_ucm_128px.py'"],
    ids=['sum', 'join', 'template', 'package'],
)  # fmt: skip
def test_bases_that_are_computed(tmp_path, base):
    (tmp_path / 'child.py').write_text(f'_base_ = {base}\nsize = 96\nbatch_size = 7\nmax_epochs = 3\n')
    cfg = read_config_file(tmp_path / 'child.py')
    assert sizes(cfg) == [(96, 96), 96, (96, 96), (96, 96)]
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (7, 3)
