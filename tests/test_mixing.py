"""Every snippet of docs/mixing.md is run: configs train and test, code and commands work as they stand there.

CLIPs have fewer layers than those of the page, unless the slow tests run.
"""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from galr_mm.integrations.open_clip import load_clip
from tests.helpers import ROOT, run_tool

pytestmark = [pytest.mark.clip, pytest.mark.text, pytest.mark.detect]
PAGE = (ROOT / 'docs/mixing.md').read_text()
SNIPPETS = re.findall(r'^```(\w+)\n(.*?)^```$', PAGE, re.M | re.S)
CONFIGS = {}
CODE = []
CLIPS = ('ViT-B-32', 'ViT-B-32-quickgelu', 'RN50-quickgelu', 'RN50x4-quickgelu')
COMMANDS = []
for language, text in SNIPPETS:
    name = re.match(r'# (\w+\.py)\n', text)
    if language == 'bash':
        COMMANDS += text.splitlines()
    elif name:
        CONFIGS[name[1]] = text
    else:
        CODE.append(text)


@pytest.fixture(scope='module', params=['fewer layers', pytest.param('full size', marks=pytest.mark.slow)])
def clips(request, tmp_path_factory):
    """The page's CLIPs by name: model files with the same widths and fewer layers, or the names themselves."""
    if request.param == 'full size':
        return dict(zip(CLIPS, CLIPS, strict=True))
    import open_clip

    folder, files = tmp_path_factory.mktemp('clips'), {}
    for name in CLIPS:
        model = open_clip.get_model_config(name)
        layers = model['vision_cfg']['layers']
        model['vision_cfg']['layers'] = [1] * len(layers) if isinstance(layers, list) else 4
        model['text_cfg']['layers'] = 1
        files[name] = str(folder / f'few-{name}.json')
        Path(files[name]).write_text(json.dumps(model))
    return files


@pytest.fixture(scope='module')
def place(mini, minilm, clips, tmp_path_factory):
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
    (folder / 'models/all-MiniLM-L6-v2').symlink_to(minilm)
    for name, text in CONFIGS.items():
        (folder / name).write_text(text)
    torch.save(load_clip(clips['ViT-B-32']).state_dict(), folder / 'RemoteCLIP-ViT-B-32.pt')
    return folder


@pytest.fixture(autouse=True)
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.delenv('GALR_DATA_ROOT', raising=False)


def replace_clips(node, clips):
    """Random weights in place of those that would be downloaded, in models of the wanted size."""
    if isinstance(node, dict):
        if 'model_name' in node:
            node['model_name'] = clips[node['model_name']]
        if 'pretrained' in node and not os.path.isfile(node['pretrained'] or ''):
            node['pretrained'] = None
        for value in node.values():
            replace_clips(value, clips)
    elif isinstance(node, list):
        for value in node:
            replace_clips(value, clips)


# those that train longest
LONG = ('mvsa_on_clip_ucm.py', 'clip_detector.py', 'swin_ucm.py', 'convnext_ucm.py', 'rn50x4_ucm.py')
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in CONFIGS]
assert set(LONG) <= set(CONFIGS)


@pytest.mark.parametrize('name', NAMES)
def test_configs(name, place, clips, tmp_path):
    cfg = Config.fromfile(place / name)
    replace_clips(cfg.model if clips['ViT-B-32'] == 'ViT-B-32' else cfg._cfg_dict, clips)
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


def test_code(clips):
    scope = {}
    for text in CODE:
        text = text.replace(repr('ViT-B-32'), repr(clips['ViT-B-32']))
        exec(compile(text, 'docs/mixing.md', 'exec'), scope)
    assert scope['similarity'].shape == (2, 1)
    assert len(scope['best']) == 2
    assert scope['words'][0]['text'] in ('a plane beside a runway', 'a river')


@pytest.mark.parametrize('command', COMMANDS)
def test_commands(command, place, clips):
    tool, *args = shlex.split(command)
    assert tool == 'python'
    args += ['model.pretrained=RemoteCLIP-ViT-B-32.pt', f'model.model_name={clips["ViT-B-32"]}']
    args += ['test_dataloader.num_workers=0']
    done = run_tool(*args, cwd=place)
    assert re.search(r'^mr +\d', done.stdout + done.stderr, re.M)


def test_nothing_is_left_out():
    assert len(CONFIGS) >= 8
    assert len(CODE) == 2
    assert len(COMMANDS) == 1
