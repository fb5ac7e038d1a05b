"""The released GaLR code and this package compute the same numbers (goldens made by the released code)."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from galr_mm.apis import init_model
from galr_mm.cli.convert_released_galr import main as convert
from galr_mm.evaluation import RecallAtK, multivariate_rerank
from galr_mm.models import TripletLoss
from galr_mm.structures import ObjectGraph, RetrievalScores

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).parent / 'data'


def stream(name, seed=0):
    return np.random.RandomState((zlib.crc32(name.encode()) + seed) & 0xFFFFFFFF)


def weight(key, shape, seed=0):
    rs = stream(key, seed)
    if key.endswith('num_batches_tracked'):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith('running_var'):
        value = 1 + 0.1 * rs.random_sample(shape)
    elif key.endswith('running_mean'):
        value = 0.05 * rs.standard_normal(shape)
    elif key.endswith('a_2') or (('bn' in key or 'downsample.1' in key) and key.endswith('weight')):
        value = 1 + 0.1 * rs.standard_normal(shape)
    elif len(shape) < 2:
        value = 0.05 * rs.standard_normal(shape)
    else:
        value = rs.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def released_checkpoint(path, extra=()):
    shapes = json.loads((DATA / 'released_state_dict.json').read_text())
    state = {key: weight(key, tuple(shape)) for key, shape in shapes.items()}
    state |= {key: torch.zeros(2) for key in extra}
    torch.save({'model': state, 'epoch': 1}, path)
    return path


@pytest.fixture(scope='module')
def golden():
    with np.load(DATA / 'released_galr_seed0.npz') as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp('released')
    source = released_checkpoint(folder / 'src.pth', extra=['text_feature.seq2vec.embedding.weight'])
    convert([str(source), str(folder / 'dst.pth')])
    return init_model(ROOT / 'configs/galr_released_rsicd.py', folder / 'dst.pth', device='cpu')


@pytest.fixture(scope='module')
def features(model):
    images = torch.from_numpy(stream('input:image').standard_normal((6, 3, 256, 256)).astype(np.float32))
    x = torch.from_numpy(stream('input:local_rep').random_sample((6, 20, 20)).astype(np.float32))
    adj = stream('input:local_adj').random_sample((6, 20, 20))
    adj = torch.from_numpy(((adj + adj.transpose(0, 2, 1)) / 20).astype(np.float32))
    vectors = torch.from_numpy(stream('input:skip_thoughts').standard_normal((6, 2400)).astype(np.float32))
    graph = ObjectGraph(x, adj, torch.ones(6, 20, dtype=torch.bool))
    with torch.no_grad():
        return {
            'visual_feature': model.encode_image(images, graph),
            'text_feature': model.encode_text(vectors),
            'global_feature': model.visual(*model.extract_maps(images)).embedding,
            'local_feature': model.local.gcn(graph).embedding,
        }


@pytest.mark.parametrize('name', ['global_feature', 'local_feature', 'visual_feature', 'text_feature'])
def test_features(features, golden, name):
    expected = torch.nn.functional.normalize(golden[name], dim=-1)
    assert (features[name] - expected).abs().max() < 1e-5


def test_losses(features, golden):
    ids = torch.zeros(6, dtype=torch.long)  # the released loss masks nothing
    for negatives, name in (('all', 'loss_sum'), ('hardest', 'loss_max')):
        loss = TripletLoss(0.2, negatives, mask_duplicates=False)
        value = loss(features['visual_feature'], features['text_feature'], ids, ids)['loss_triplet']
        assert value.item() == pytest.approx(golden[name].item(), rel=1e-4)


def test_rerank_and_recalls(golden):
    raw = RetrievalScores.from_matrix(golden['similarity'])
    i2t = multivariate_rerank(raw.i2t, k=30, tail='zero', significance='ratio')
    t2i = multivariate_rerank(raw.t2i, k=30, tail='zero', significance='ratio')
    assert (i2t - golden['mr_i2t']).abs().max() < 1e-5
    assert (t2i.t() - golden['mr_t2i']).abs().max() < 1e-5
    for scores, name in ((raw, 'recalls_plain'), (RetrievalScores(i2t, t2i, raw.positives), 'recalls_mr')):
        recalls = list(RecallAtK((1, 5, 10))(scores.ranks).values())[:6]
        np.testing.assert_allclose(recalls, golden[name].numpy(), atol=1e-4)


def test_unknown_key_is_an_error(tmp_path):
    source = released_checkpoint(tmp_path / 'src.pth', extra=['fusion.mystery.weight'])
    with pytest.raises(SystemExit, match=r'fusion\.mystery\.weight'):
        convert([str(source), str(tmp_path / 'dst.pth')])
    assert not (tmp_path / 'dst.pth').exists()


def test_not_a_checkpoint_is_an_error(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'src.pth')
    with pytest.raises(SystemExit, match="'model'"):
        convert([str(tmp_path / 'src.pth'), str(tmp_path / 'dst.pth')])
