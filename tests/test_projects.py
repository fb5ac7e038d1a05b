import re

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from tests.helpers import ROOT, run_tool, shrink_clip

PROJECTS = sorted(path for path in (ROOT / 'projects').iterdir() if path.is_dir() and path.name != '__pycache__')


@pytest.mark.parametrize('folder', PROJECTS, ids=lambda p: p.name)
def test_has_a_page_with_a_check_list(folder):
    page = (folder / 'README.md').read_text()
    assert len(re.findall(r'^- \[[x ]\] Milestone \d', page, re.M)) == 3
    assert folder.name in (ROOT / 'projects/README.md').read_text()
    for name in re.findall(r'`(\w+\.py)`', page):
        assert (folder / name).is_file(), name


@pytest.mark.slow
def test_example_project(mini_config, mini, tmp_path):
    """Trains and tests with a re-ranker and a text encoder that are not in the package."""
    config = tmp_path / 'own.py'
    shipped = Config.fromfile(ROOT / 'projects/example_project/example_mini.py', import_custom_modules=False)
    text = dict(shipped.model.text_encoder, vocabulary=f'{mini}/vocabulary.json')
    config.write_text(
        f'_base_ = {str(mini_config)!r}\ncustom_imports = {shipped.custom_imports.to_dict()}\n'
        f'model = dict(text_encoder=dict(_delete_=True, **{text}))\nrerank = {list(map(dict_of, shipped.rerank))}\n'
    )
    options = dict(env={'PYTHONPATH': '.'})
    run_tool('tools/train.py', config, '--work-dir', tmp_path, **options)
    (best,) = tmp_path.glob('best_mR_*.pth')
    done = run_tool('tools/test.py', config, best, '--work-dir', tmp_path, **options)
    log = done.stdout + done.stderr
    assert re.search(r'^centered +\d', log, re.M)
    assert re.search(r'^mr +\d', log, re.M)


def dict_of(reranker):
    return reranker if isinstance(reranker, str) else reranker.to_dict()


@pytest.mark.clip
def test_remoteclip_fine_tunes(mini, tmp_path):
    """The recipe with a tiny CLIP: unlocked groups and text tower learn, the rest of the image tower does not."""
    cfg = Config.fromfile(ROOT / 'projects/remoteclip/finetune_rsitmd.py')
    assert cfg.model.pretrained.endswith('RemoteCLIP-ViT-B-32.pt')
    shrink_clip(cfg, mini, tmp_path)
    runner = Runner.from_cfg(cfg)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    moved = {name for name, value in runner.model.state_dict().items() if (value != before[name]).any()}
    assert 'backbone.tower.conv1.weight' not in moved
    assert {'backbone.tower.proj', 'text_encoder.clip.token_embedding.weight'} <= moved
