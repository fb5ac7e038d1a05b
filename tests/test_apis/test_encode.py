"""Images in, embeddings out: objects found online are those that were extracted before."""

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config

from galr_mm.apis import encode_images, init_model
from galr_mm.detection.extraction import Settings, extract_proposals
from galr_mm.registry import DATASETS, MODELS
from tests.helpers import DETECTOR_CONFIG as CONFIG

pytestmark = pytest.mark.detect
SETTINGS = dict(score_thr=0.3, max_per_image=30)


@pytest.fixture(scope='module')
def checkpoint(mini_config, tmp_path_factory):
    """Weights of a retriever that was trained without a proposal generator."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('retriever') / 'galr.pth'
    torch.save({'state_dict': init_model(mini_config).state_dict()}, path)
    return path


def online(mini_config, detector, **options):
    cfg = Config.fromfile(mini_config)
    generator = Config.fromfile(CONFIG).model  # says _scope_='mmdet'
    generator['init_cfg'] = dict(type='Pretrained', checkpoint=str(detector))
    cfg.model.proposal_generator = dict(
        type='galr_mm.ProposalGenerator',
        detector=generator,
        pipeline=Config.fromfile(CONFIG).test_pipeline,
        **{**SETTINGS, **options},
    )
    return cfg


@pytest.fixture(scope='module')
def offline(mini_config, mini, detector, checkpoint, tmp_path_factory):
    """Embeddings (n, D) of the test split by the data set and extracted proposals, and the image files."""
    out = tmp_path_factory.mktemp('proposals') / 'proposals.json'
    extract_proposals(CONFIG, detector, mini / 'dataset_mini.json', out, settings=Settings(**SETTINGS), batch_size=1)
    cfg = Config.fromfile(mini_config)
    cfg.test_dataloader.dataset.proposal_file = str(out)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    model = init_model(cfg, checkpoint)
    feats = []
    with torch.no_grad():
        for item in dataset:
            batch = dict(inputs=item['inputs'][None], data_samples=[item['data_samples']])
            batch = model.data_preprocessor(batch, False)
            feats.append(model.extract_feat(batch['images'], batch['data_samples'])['image_feat'])
    assert sum(len(item['data_samples'].proposals.scores) for item in dataset) > len(dataset)
    return torch.cat(feats), [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]


@pytest.mark.parametrize('kind', ['files', 'arrays', 'mixed'])
def test_online_is_offline(mini_config, detector, checkpoint, offline, kind):
    expected, paths = offline
    model = init_model(online(mini_config, detector), checkpoint)
    images = [mmcv.imread(p) if kind == 'arrays' or (kind == 'mixed' and n % 2) else p for n, p in enumerate(paths)]
    got = encode_images(model, images, batch_size=1)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(len(got)))
    without = encode_images(init_model(mini_config, checkpoint), images)
    assert (without - got).abs().max() > 1e-3  # the objects matter


def test_a_data_set_without_proposals_gets_them_online(mini_config, detector, checkpoint, offline):
    expected, _ = offline
    cfg = online(mini_config, detector)
    cfg.test_dataloader.dataset.proposal_file = None
    model, dataset = init_model(cfg, checkpoint), DATASETS.build(cfg.test_dataloader.dataset)
    item = dataset[3]
    batch = model.data_preprocessor(dict(inputs=item['inputs'][None], data_samples=[item['data_samples']]), False)
    with torch.no_grad():
        got = model.extract_feat(batch['images'], batch['data_samples'])['image_feat']
    torch.testing.assert_close(got, expected[3:4], atol=1e-4, rtol=0)
    model.train()
    with pytest.raises(RuntimeError, match='extract_proposals'):
        model.extract_feat(batch['images'], [dataset[3]['data_samples']])


def test_the_detector_stays_frozen_and_out_of_the_checkpoint(mini_config, detector):
    model = MODELS.build(online(mini_config, detector).model).train()
    assert not model.proposal_generator.detector.training
    assert not any(p.requires_grad for p in model.proposal_generator.parameters())
    assert not any('proposal_generator' in key for key in model.state_dict())
    before = {key: value.clone() for key, value in model.proposal_generator.detector.state_dict().items()}
    model.load_state_dict(model.state_dict(), strict=True)
    after = model.proposal_generator.detector.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_config_and_pipeline_from_the_checkpoint(mini_config, detector, checkpoint, offline, tmp_path):
    content = torch.load(detector, weights_only=False)
    content['meta']['cfg'] = Config.fromfile(CONFIG).pretty_text
    torch.save(content, tmp_path / 'full.pth')
    generator = dict(_scope_='mmdet', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'full.pth')))
    cfg = Config.fromfile(mini_config)
    cfg.model.proposal_generator = dict(type='galr_mm.ProposalGenerator', detector=generator, **SETTINGS)
    expected, paths = offline
    torch.testing.assert_close(encode_images(init_model(cfg, checkpoint), paths), expected, atol=1e-5, rtol=0)
    cfg.model.proposal_generator = generator  # alone, with the default settings
    assert len(init_model(cfg, checkpoint).proposal_generator(paths[:1])) == 1


def test_bad_generators(mini_config, detector, monkeypatch):
    cfg = online(mini_config, detector)
    cfg.model.proposal_generator.detector.init_cfg.checkpoint = 'nowhere.pth'
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        MODELS.build(cfg.model)
    cfg.model.proposal_generator.detector.init_cfg = None
    with pytest.raises(ValueError, match='init_cfg'):
        MODELS.build(cfg.model)
    cfg = online(mini_config, detector)
    cfg.model.drea.num_classes = 7
    with pytest.raises(ValueError, match='6 classes, but drea has num_classes=7'):
        MODELS.build(cfg.model)
    cfg = online(mini_config, detector)
    cfg.model.proposal_generator.pipeline = None
    with pytest.raises(ValueError, match='pipeline='):
        MODELS.build(cfg.model)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'galr_mm\[detect\]'):
        MODELS.build(cfg.model)


def test_bad_images(mini_config, checkpoint, tmp_path):
    model = init_model(mini_config, checkpoint)
    with pytest.raises(ValueError, match='no images'):
        encode_images(model, [])
    with pytest.raises(ValueError, match=r'image 1 is an array of float64 \(4, 4, 3\)'):
        encode_images(model, [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3))])
    with pytest.raises(FileNotFoundError, match=r'no image at nowhere\.jpg'):
        encode_images(model, ['nowhere.jpg'])
    (tmp_path / 'broken.jpg').write_bytes(b'x')
    with pytest.raises(OSError, match=r'broken\.jpg'):
        encode_images(model, [tmp_path / 'broken.jpg'])
    with pytest.raises(ValueError, match='batch_size is 0'):
        encode_images(model, [np.zeros((4, 4, 3), np.uint8)], batch_size=0)
    with pytest.raises(ValueError, match=r'array of uint8 \(0, 4, 3\)'):
        encode_images(model, [np.zeros((0, 4, 3), np.uint8)])
    with pytest.raises(ValueError, match='no config'):
        encode_images(MODELS.build(Config.fromfile(mini_config).model), [np.zeros((4, 4, 3), np.uint8)])


@pytest.mark.parametrize('content', [b'', b'x', 'cut'])
def test_bad_images_of_a_generator(mini_config, detector, checkpoint, mini, tmp_path, content):
    model = init_model(online(mini_config, detector), checkpoint)
    good = mini / 'images/test_0000.jpg'
    (tmp_path / 'broken.jpg').write_bytes(good.read_bytes()[:300] if content == 'cut' else content)
    with pytest.raises(OSError, match=r'broken\.jpg'):
        encode_images(model, [good, tmp_path / 'broken.jpg'])
    with pytest.raises(OSError, match=r'array 0 of \(3, 5000, 3\)'):
        encode_images(model, [np.zeros((3, 5000, 3), np.uint8)])
