"""Images in, embeddings out: objects found online are those that were extracted before."""

import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config

from galr_mm.apis import encode_images, encode_texts, init_model
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
    settings = dict(type='galr_mm.ProposalGenerator', checkpoint=str(detector), config=str(CONFIG), **SETTINGS)
    cfg.model.local.detector = settings | options
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
    assert not model.local.detector.model.training
    assert not any(p.requires_grad for p in model.local.detector.parameters())
    assert not any('detector' in key for key in model.state_dict())
    before = {key: value.clone() for key, value in model.local.detector.model.state_dict().items()}
    model.load_state_dict(model.state_dict(), strict=True)
    after = model.local.detector.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def with_config(detector, path, text):
    content = torch.load(detector, weights_only=False)
    content['meta']['cfg'] = text
    torch.save(content, path)
    return path


def test_config_from_the_checkpoint(mini_config, detector, checkpoint, offline, tmp_path):
    path = with_config(detector, tmp_path / 'full.pth', Config.fromfile(CONFIG).pretty_text)
    expected, images = offline
    model = init_model(online(mini_config, path, config=None), checkpoint)
    torch.testing.assert_close(encode_images(model, images), expected, atol=1e-5, rtol=0)
    cfg = Config.fromfile(mini_config)
    cfg.model.local.detector = dict(type='galr_mm.ProposalGenerator', checkpoint=str(path))  # the default settings
    assert len(init_model(cfg, checkpoint).local.detector(images[:1])) == 1


def test_the_config_in_a_checkpoint_is_not_executed(mini_config, detector, tmp_path):
    mark = tmp_path / 'mark'
    text = f"open({str(mark)!r}, 'w')\n" + Config.fromfile(CONFIG).pretty_text
    path = with_config(detector, tmp_path / 'full.pth', text)
    with pytest.raises(ValueError, match=r'full\.pth is not plain data: line 1, .*config=FILE'):
        MODELS.build(online(mini_config, path, config=None).model)
    assert MODELS.build(online(mini_config, path).model).local.detector is not None  # with a config of one's own
    assert not mark.exists()


def test_config_in_place(mini_config, detector):
    content = Config.fromfile(CONFIG)
    content = dict(model=content.model, test_dataloader=content.test_dataloader)
    model = MODELS.build(online(mini_config, detector, config=content).model)
    assert model.local.detector.classes == tuple(Config.fromfile(CONFIG).metainfo.classes)


@pytest.mark.parametrize(
    ('options', 'error', 'match'),
    [
        (dict(checkpoint='nowhere.pth'), FileNotFoundError, r'nowhere\.pth'),
        (dict(config='nowhere.py'), FileNotFoundError, r'nowhere\.py'),
        (dict(config=None), ValueError, 'holds no config; .*config=FILE'),
        (dict(config=dict(model=dict())), ValueError, 'no test_dataloader'),
    ],
)
def test_bad_detectors(mini_config, detector, options, error, match):
    with pytest.raises(error, match=match):
        MODELS.build(online(mini_config, detector, **options).model)


def test_detectors_of_other_classes_and_without_mmdet(mini_config, detector, monkeypatch):
    cfg = online(mini_config, detector)
    cfg.model.local.drea.num_classes = 7
    with pytest.raises(ValueError, match='6 classes, but drea has num_classes=7'):
        MODELS.build(cfg.model)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'galr_mm\[detect\]'):
        MODELS.build(cfg.model)


def test_an_image_without_a_path_does_not_switch_off_the_detector(mini_config, detector, checkpoint, monkeypatch):
    """Of a batch: with proposals, with a path, with neither. Each gets what it gets alone."""
    logged = []
    monkeypatch.setattr('galr_mm.utils.logging._LOGGED', set())
    monkeypatch.setattr('galr_mm.utils.logging.print_log', lambda text, *_: logged.append(text))
    cfg = online(mini_config, detector)
    model = init_model(cfg, checkpoint)
    given = DATASETS.build(cfg.test_dataloader.dataset)
    cfg.test_dataloader.dataset.proposal_file = None
    bare = DATASETS.build(cfg.test_dataloader.dataset)
    items = [given[0], bare[1], bare[2]]
    sample = items[2]['data_samples']
    sample.set_metainfo({'img_path': None})
    images = torch.stack([item['inputs'] for item in items]).float()
    samples = [item['data_samples'] for item in items]
    together = model.build_graph(images, samples)
    assert together.mask.any(dim=1).tolist() == [True, True, False]
    assert len(logged) == 1
    assert logged[0].startswith('1 of 3 images')
    for index in (0, 1):
        alone = model.build_graph(images[index : index + 1], samples[index : index + 1])
        torch.testing.assert_close(together.x[index], alone.x[0], atol=1e-3, rtol=0)
    assert model.build_graph(images[2:], samples[2:]) is None


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
    with pytest.raises(ValueError, match='the model has no config'):
        encode_images(MODELS.build(Config.fromfile(mini_config).model), [np.zeros((4, 4, 3), np.uint8)])


def test_encode_texts(mini_config, checkpoint):
    model = init_model(mini_config, checkpoint)
    texts = ['an airplane on the left .', 'two ships .', 'a vehicle .']
    embeddings = encode_texts(model, texts, batch_size=2)
    torch.testing.assert_close(embeddings, model.encode_text(texts).detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    assert not embeddings.requires_grad
    for texts, error in ((['a ship'], None), ([], ValueError), ('a ship', TypeError)):
        if error is None:
            assert encode_texts(model, texts).shape[0] == 1
        else:
            with pytest.raises(error):
                encode_texts(model, texts)
    with pytest.raises(ValueError, match='batch_size is 0'):
        encode_texts(model, ['a ship'], batch_size=0)


@pytest.mark.parametrize('content', [b'', b'x', 'cut'])
def test_bad_images_of_a_generator(mini_config, detector, checkpoint, mini, tmp_path, content):
    model = init_model(online(mini_config, detector), checkpoint)
    good = mini / 'images/test_0000.jpg'
    (tmp_path / 'broken.jpg').write_bytes(good.read_bytes()[:300] if content == 'cut' else content)
    with pytest.raises(OSError, match=r'broken\.jpg'):
        encode_images(model, [good, tmp_path / 'broken.jpg'])
    with pytest.raises(OSError, match=r'array 0 of \(3, 5000, 3\)'):
        encode_images(model, [np.zeros((3, 5000, 3), np.uint8)])
