"""Every function takes tensors, numpy arrays, data frames and nested lists alike, and says what it cannot take."""

import numpy as np
import pytest
import torch

from galr_mm import functional as F
from galr_mm.functional.arrays import as_tensor

QUERIES, GALLERY = 5, 7


class Frame:
    """What a data frame of pandas is to numpy."""

    def __init__(self, values):
        self.values = np.asarray(values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        raise KeyError(key)  # columns by name


KINDS = {
    'numpy': lambda t: t.numpy(),
    'read-only': lambda t: np.frombuffer(t.numpy().tobytes(), t.numpy().dtype).reshape(t.shape),
    'backwards': lambda t: t.numpy()[::-1][::-1],
    'big-endian': lambda t: t.numpy().astype(t.numpy().dtype.newbyteorder('>')),
    'frame': lambda t: Frame(t.numpy()),
    'frame of objects': lambda t: Frame(t.numpy().astype(object)),
    'lists': lambda t: t.tolist(),
    'list of tensors': lambda t: list(t),
    'list of arrays': lambda t: list(t.numpy()),
    'gradient': lambda t: t.clone().requires_grad_() if t.is_floating_point() else t,
}


@pytest.fixture
def similarity():
    return torch.rand(QUERIES, GALLERY, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1


FUNCTIONS = {
    'mr': lambda s: F.multivariate_rerank(s, k=3),
    'mr both': lambda s: F.multivariate_rerank(s, k=99, reverse_similarity=np.asarray(as_tensor(s)).T.tolist()),
    'rr': lambda s: F.reverse_rank_rerank(s, k=3),
    'product': lambda s: F.product_rerank(s, k=3),
    'dsl': F.dual_softmax_rerank,
    'qbnorm': lambda s: F.querybank_rerank(s, s),
    'csls': lambda s: F.csls_rerank(s, bank=s),
    'candidates': lambda s: F.find_candidates(s, 3)[0].significance,
    'mr features': lambda s: F.multivariate_rerank_from_features(s, s, k=99).scores,
    'hubs features': lambda s: F.correct_hubs_from_features(s, s, F.CSLS(2), top=99).scores,
    'bank': lambda s: F.QueryBankReranker(s, s, k=99)(list(as_tensor(s))[0]).scores,
    'bank of hubs': lambda s: F.BankReranker(s, s, F.CSLS(2))(s).scores,
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_rerankers(similarity, kind, name):
    expected, got = FUNCTIONS[name](similarity), FUNCTIONS[name](KINDS[kind](similarity))
    torch.testing.assert_close(got, expected, check_dtype=False)
    assert not got.requires_grad


@pytest.mark.parametrize('kind', KINDS)
def test_recall(similarity, kind):
    give = KINDS[kind]
    positives = torch.zeros(QUERIES, GALLERY, dtype=torch.bool)
    positives[range(4), [2, 0, 1, 6]] = True
    ranks = F.retrieval_ranks(similarity, positives)
    for flags in (positives, positives.int(), positives.float()):
        assert F.retrieval_ranks(give(similarity), give(flags)).equal(ranks)
        assert F.recall_at_k(give(similarity), give(flags)) == F.recall_at_k(similarity, positives)
        assert F.chance_recall_at_k(give(flags)) == F.chance_recall_at_k(positives)
    assert F.recall_from_ranks(give(ranks), give(torch.tensor([1, 99]))) == F.recall_from_ranks(ranks, (1, 99))
    found, _ = F.find_candidates(similarity, k=3)
    scores = F.multivariate_scores(found)
    expected = F.reranked_ranks(found, scores, positives, ranks)
    assert F.reranked_ranks(found, give(scores), give(positives), give(ranks)).equal(expected)


@pytest.mark.parametrize('kind', KINDS)
def test_bootstrap(kind):
    give, positives = KINDS[kind], torch.eye(4).bool()
    before, after = (dict(i2t=torch.tensor(r), t2i=torch.tensor(r)) for r in ([0, 1, 2, 3], [0, 0, 1, 1]))
    expected = F.paired_bootstrap(before, after, positives, resamples=50)
    got = F.paired_bootstrap(
        {key: give(value) for key, value in before.items()}, after, give(positives), give(torch.tensor([1, 5, 10])), 50
    )
    assert got == expected


def test_data_frames_of_pandas(similarity):
    pandas = pytest.importorskip('pandas')
    for columns in (None, list('abcdefg')):
        frame = pandas.DataFrame(similarity.numpy(), columns=columns)
        torch.testing.assert_close(F.multivariate_rerank(frame, k=3), F.multivariate_rerank(similarity, k=3))
    mixed = pandas.DataFrame(dict(a=[1, 2], b=[0.5, 0.25]))
    assert as_tensor(mixed).tolist() == [[1, 0.5], [2, 0.25]]
    with pytest.raises(ValueError, match='similarity of numbers, got DataFrame'):
        F.multivariate_rerank(pandas.DataFrame(dict(a=['x', 'y'])))


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ([[1.0, 2.0], [3.0]], 'similarity of numbers'),
        ('a text' * 1000, 'similarity of numbers, got str'),
        ([['a', 'b']], 'similarity of numbers'),
        (None, 'similarity of numbers'),
        ({'a': 1}, 'similarity of numbers'),
        (np.array([['1.5']], dtype=object), 'similarity of numbers'),
        (np.array([['2020-01-01']], dtype='M8[D]'), 'similarity of numbers'),
        (np.zeros((2, 2), complex), 'real values'),
        (torch.zeros(2, 2).to_sparse(), 'dense'),
        ([1.0, 2.0], r'shape \(2,\)'),
        ([], r'shape \(0,\)'),
        (np.ma.masked_array([[1.0, 2.0]], [[False, True]]), '1 of 2 similarities are NaN'),
    ],
    ids=[
        'ragged',
        'text',
        'words',
        'none',
        'dict',
        'objects',
        'dates',
        'complex',
        'sparse',
        'vector',
        'empty',
        'masked',
    ],
)
def test_what_is_refused(value, message):
    with pytest.raises(ValueError, match=message) as error:
        F.multivariate_rerank(value)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: F.retrieval_ranks([[0.5, 1.0]], [[2, 0]]), r'true or false \(1 or 0\)'),
        (lambda: F.retrieval_ranks([[0.5, 1.0]], [[True]]), 'one shape'),
        (lambda: F.retrieval_ranks([['a']], [[True]]), 'similarity of numbers'),
        (lambda: F.recall_from_ranks([0.5, 1]), 'whole numbers'),
        (lambda: F.recall_from_ranks([-3, 1]), '-3'),
        (lambda: F.recall_from_ranks([[1], [2]]), 'whole numbers'),
        (lambda: F.recall_from_ranks([1], topk=[0]), 'topk is'),
        (lambda: F.recall_from_ranks([1], topk=[1.5]), 'topk is'),
        (lambda: F.recall_from_ranks([1], topk=5), 'topk is'),
        (lambda: F.chance_recall_at_k([1, 0]), 'shape'),
    ],
    ids=list('abcdefghij'),
)
def test_wrong_ranks_and_positives(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    'give',
    [
        torch.Tensor.to_sparse,
        torch.Tensor.to_sparse_csr,
        lambda matrix: matrix.to(torch.float8_e4m3fn),
        lambda matrix: torch.quantize_per_tensor(matrix, 0.1, 0, torch.qint8),
    ],
    ids=['sparse', 'csr', 'float8', 'quantized'],
)
@pytest.mark.parametrize(
    'function', [lambda m: F.recall_at_k(m, torch.eye(3)), lambda m: F.chance_recall_at_k(m), F.multivariate_rerank],
    ids=['recall', 'chance', 'rerank'],
)  # fmt: skip
def test_tensors_that_torch_does_not_compute_with(give, function):
    with pytest.raises(ValueError, match='dense, of bool, whole numbers or at least 16-bit') as raised:
        function(give(torch.eye(3)))
    assert len(str(raised.value)) < 500


def test_labels_in_another_order_are_refused():
    pandas = pytest.importorskip('pandas')
    frame = pandas.DataFrame(torch.eye(3).numpy(), index=list('abc'), columns=list('xyz'))
    assert F.recall_at_k(frame, frame.astype(bool), (1,)) == {1: 100}
    with pytest.raises(ValueError, match="labels: index 0 is 'a' in the one, index 0 is 'c' in the other"):
        F.recall_at_k(frame, frame.astype(bool).loc[list('cab')])
    with pytest.raises(ValueError, match="columns 0 is 'x' in the one, columns 0 is 'z'"):
        F.recall_at_k(frame, frame.astype(bool)[list('zxy')])
    assert F.multivariate_rerank(frame, 2, reverse_similarity=frame.T).shape == (3, 3)
    with pytest.raises(ValueError, match='similarity and reverse_similarity have different labels'):
        F.multivariate_rerank(frame, 2, reverse_similarity=frame.T.loc[list('zxy')])
