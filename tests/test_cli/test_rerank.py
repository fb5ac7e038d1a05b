import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image

from galr_mm.cli.rerank import main
from galr_mm.evaluation import (
    RecallAtK,
    csls_rerank,
    dual_softmax_rerank,
    multivariate_rerank,
    querybank_rerank,
    reverse_rank_rerank,
)
from galr_mm.evaluation.sweep import sweep_multivariate
from galr_mm.structures import RetrievalScores
from tests.helpers import run_tool


def similarity(images=30, captions=5, noise=0.6):
    """Captions lean towards their image, with hubs."""
    rng = np.random.default_rng(0)
    s = noise * rng.standard_normal((images, images * captions)) + 0.3 * rng.standard_normal(images * captions)
    s[np.arange(images * captions) // captions, np.arange(images * captions)] += 1
    return s.astype(np.float32)


@pytest.fixture
def rerank(capsys):
    """The tool in this process: what it printed, or the message it ended with."""

    def run(*args):
        main([*map(str, args)])
        return capsys.readouterr().out

    return run


def test_as_a_command(matrix):
    assert 'mR' in rows_of(run_tool('tools/rerank.py', matrix).stdout)


@pytest.fixture(scope='module')
def matrix(tmp_path_factory):
    path = tmp_path_factory.mktemp('rerank') / 's.npy'
    np.save(path, similarity())
    return path


def rows_of(output):
    return {
        line.split()[0]: [float(x) for x in re.findall(r'[+-]?\d+\.\d+', line)]
        for line in output.splitlines()
        if re.match(r'(i2t|t2i|mR)', line)
    }


def test_report_and_scores(rerank, matrix, tmp_path):
    out = tmp_path / 'sub/o.npz'
    rows = rows_of(rerank(matrix, '--k', 10, '--weights', 0.3, 1, 0.5, '--out', out))
    raw = RetrievalScores.from_matrix(torch.from_numpy(np.load(matrix)))
    options = dict(k=10, weights=(0.3, 1.0, 0.5))
    new = RetrievalScores(
        multivariate_rerank(raw.i2t, **options), multivariate_rerank(raw.t2i, **options), raw.positives
    )
    written = np.load(out)
    assert sorted(written.files) == ['i2t', 't2i']
    torch.testing.assert_close(torch.from_numpy(written['i2t']), new.i2t)
    torch.testing.assert_close(torch.from_numpy(written['t2i']), new.t2i)
    before, after = RecallAtK()(raw.ranks), RecallAtK()(new.ranks)
    assert rows.keys() == before.keys()
    for name, (_, first, second, change, low, high) in rows.items():
        assert (first, second) == (round(before[name], 2), round(after[name], 2))
        assert change == pytest.approx(second - first, abs=0.011)
        assert low <= change <= high


@pytest.mark.parametrize('kind', ['npz', 'pt', 'both', 'positives', 'json'])
def test_other_files(rerank, matrix, tmp_path, kind):
    s = np.load(matrix)
    expected = rows_of(rerank(matrix, '--method', 'rr'))
    path, extra = tmp_path / f's.{"pt" if kind == "pt" else "npz"}', []
    if kind == 'pt':
        torch.save({'i2t': torch.from_numpy(s)}, path)
    elif kind == 'npz':
        np.savez(path, similarity=s)
    elif kind == 'both':
        np.savez(path, i2t=s, t2i=s.T)
    else:
        order = np.random.default_rng(1).permutation(s.shape[1])
        positives = (np.arange(s.shape[1]) // 5)[order] == np.arange(len(s))[:, None]
        if kind == 'positives':
            np.savez(path, i2t=s[:, order], t2i=s[:, order].T, positives=positives)
        else:
            np.savez(path, i2t=s[:, order])
            (tmp_path / 'p.json').write_text(json.dumps([np.flatnonzero(row).tolist() for row in positives]))
            extra = ['--positives', tmp_path / 'p.json']
    rows = rows_of(rerank(path, '--method', 'rr', *extra))
    for name, row in expected.items():
        assert rows[name][:4] == row[:4]


def test_other_direction_and_fillers(rerank, matrix, tmp_path):
    s = np.load(matrix)
    np.save(tmp_path / 't2i.npy', np.where(s.T > 0, s.T, -100))
    np.save(tmp_path / 'i2t.npy', np.where(s > 0.5, s, -100))
    out = tmp_path / 'o.npz'
    rerank(tmp_path / 'i2t.npy', '--t2i', tmp_path / 't2i.npy', '--method', 'rr', '--filler', -100, '--out', out)
    i2t, t2i = (torch.from_numpy(np.load(tmp_path / f'{name}.npy')) for name in ('i2t', 't2i'))
    expected = reverse_rank_rerank(i2t, reverse_similarity=t2i, filler=-100.0)
    torch.testing.assert_close(torch.from_numpy(np.load(out)['i2t']), expected)


def test_sweep(rerank, matrix, tmp_path):
    image = tmp_path / 'sub/sweep.png'
    output = rerank(matrix, '--sweep', image, '--reverse', 'absolute')
    assert Image.open(image).width > 300
    options = re.search(r'--cfg-options (rerank=mr .*)', output).group(1)
    words = re.search(r'tools/rerank.py: (.*)', output).group(1).split()
    k, w_s, w_r = words[1], words[3], words[5]
    assert options == (
        f'rerank=mr rerank_cfg.mr.k={k} rerank_cfg.mr.weights="[{w_s},1,{w_r}]" rerank_cfg.mr.reverse=absolute'
    )
    best = float(re.search(r'mR +([\d.]+) \(', output).group(1))
    rows = rows_of(rerank(matrix, *words))
    assert rows['mR'][2] == best >= rows['mR'][1]


@pytest.mark.parametrize('filler', [None, -100.0])
def test_every_point_of_a_sweep_is_what_the_re_ranked_matrix_gives(filler):
    s = torch.from_numpy(similarity(12)).round(decimals=1)  # with ties
    t2i = s.t().clone()
    if filler is not None:
        s[s < 0.3], t2i[t2i < 0.1] = filler, filler
    raw = RetrievalScores(s, t2i, RetrievalScores.from_matrix(s).positives, filler)
    before, points = sweep_multivariate(raw, ks=(1, 4, 60), significance_weights=(0, 1), reverse_weights=(0, 1, 3))
    assert before == pytest.approx(RecallAtK()(raw.ranks)['mR'])
    assert len(points) == 18
    for options, mean_recall in points:
        k, weights = options['k'], options['weights']
        new = [multivariate_rerank(a, k, weights, reverse_similarity=b, filler=filler) for a, b in ((s, t2i), (t2i, s))]
        assert mean_recall == pytest.approx(RecallAtK()(RetrievalScores(*new, raw.positives).ranks)['mR'])


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--method', 'rr', '--weights', 1, 1, 1], 'weights'),
        (['--k', 0], 'k is 0'),
        (['--captions-per-image', 0], 'captions_per_image is 0'),
        (['--captions-per-image', 4], '30 images with 4 captions each need 120 columns, got 150'),
        (['--out', 'o.npy'], 'ends in .npz'),
        (['--sweep', 's.jpg'], 'ends in .png'),
        (['--sweep', 's.png', '--k', 3], 'leave'),
        (['--sweep', 's.png', '--out', 'o.npz'], 'leave'),
        (['--sweep', 's.png', '--method', 'dsl', '--scale', 3], 'parameters of dsl; leave --scale and --out out'),
        (['--method', 'dsl', '--k', 3], 'DualSoftmaxRerank got k'),
        (['--method', 'dsl', '--scale', 0], 'scale is 0'),
        (['--method', 'qbnorm'], 'has no bank/i2t and no bank/t2i: similarities of training queries'),
        (['--bank', 'nowhere.npz'], '--bank is for qbnorm, dsl and csls'),
        (['--method', 'qbnorm', '--bank', 'nowhere.npz'], 'no file at nowhere.npz'),
        (['--positives', 'nowhere.json'], 'nowhere.json'),
        (['--filler', 'nan'], 'filler is nan'),
        (['--t2i', 'nowhere.npy'], 'no file at nowhere.npy'),
        (['--out', '/proc/nowhere/x.npz'], '--out: cannot write'),
        (['--sweep', '/proc/nowhere/x.png'], '--sweep: cannot write'),
        (['--resamples', 10**9], 'resamples is 1000000000, expected 1 to 100,000'),
        (['--resamples', 0], 'resamples is 0'),
    ],
)
def test_bad_arguments(rerank, matrix, args, message):
    with pytest.raises(SystemExit, match=message):
        rerank(matrix, *args)


def bad_files():
    s = similarity(4)
    nan = s.copy()
    nan[1, 2] = np.nan
    yield 'nan.npy', lambda p: np.save(p, nan), '1 of 80 .*row 1, column 2'
    yield 'objects.npy', lambda p: np.save(p, np.array({'i2t': s}, dtype=object)), '--allow-pickle'
    yield 'pickle.npy', lambda p: p.write_bytes(pickle.dumps({'i2t': s})), '--allow-pickle'
    yield 'model.pt', lambda p: torch.save(torch.nn.Linear(2, 2), p), '--allow-pickle'
    yield 'text.pt', lambda p: p.write_text('hello'), 'cannot be read'
    yield 'list.pt', lambda p: torch.save([torch.rand(2, 2)], p), 'holds a list'
    yield 'sparse.pt', lambda p: torch.save(torch.eye(5).to_sparse(), p), 'expected similarity dense'
    yield 'none.npz', lambda p: np.savez(p, i2t=s, positives=np.zeros(s.shape, bool)), 'no query with a positive'
    yield 'cut.pth', lambda p: p.write_bytes(b'garbage'), '^[^\n]*cannot be read: UnpicklingError[^\n]*$'
    yield 'cut.npz', lambda p: p.write_bytes(b'PK' + bytes(50)), 'cannot be read'
    yield 'owners.npz', lambda p: np.savez(p, i2t=s, positives=np.where(s > 0, 1, -1)), 'positives that are true or'
    yield 'nan.npz', lambda p: np.savez(p, i2t=s, positives=np.full(s.shape, np.nan)), 'positives that are true or'
    yield 't2i.npz', lambda p: np.savez(p, t2i=s), "holds t2i; expected 'i2t', or a single array that is not named"
    yield 'bank.npz', lambda p: np.savez(p, **{'bank/i2t': s}), "holds bank/i2t; expected 'i2t'"
    yield 'two.npz', lambda p: np.savez(p, a=s, b=s), "holds a, b; expected 'i2t'"
    yield 'vector.npy', lambda p: np.save(p, s[0]), r'shape \(20,\)'
    yield 'text.csv', lambda p: p.write_text('1,2'), 'ends in .npy'
    yield 'directions.npz', lambda p: np.savez(p, i2t=s, t2i=s), 'expected i2t'


@pytest.mark.parametrize(('name', 'write', 'message'), [*bad_files()], ids=lambda x: x if isinstance(x, str) else '')
def test_bad_files(rerank, tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(SystemExit, match=message):
        rerank(tmp_path / name)


def test_arrays_by_their_names(rerank, tmp_path):
    """In a square matrix nothing but the name tells the directions apart."""
    s, t = similarity(12)[:, :12], similarity(12)[:, 12:24]
    np.savez(tmp_path / 'both.npz', i2t=s, t2i=t)
    np.savez(tmp_path / 'i2t.npz', some_name=s)
    np.save(tmp_path / 't2i.npy', t)
    words = ['--captions-per-image', 1]
    expected = rerank(tmp_path / 'both.npz', *words)
    for given in ('both.npz', 't2i.npy'):
        assert rerank(tmp_path / 'i2t.npz', '--t2i', tmp_path / given, *words) == expected
    np.savez(tmp_path / 'p.npz', positives=np.eye(12))
    with pytest.raises(SystemExit, match="holds positives; expected 't2i'"):
        rerank(tmp_path / 'i2t.npz', '--t2i', tmp_path / 'p.npz', *words)


def test_what_is_read_is_not_written_over(rerank, tmp_path):
    np.savez(tmp_path / 'a.npz', i2t=similarity(12), **{'bank/i2t': similarity(12)})
    before = (tmp_path / 'a.npz').read_bytes()
    with pytest.raises(SystemExit, match=r'--out .*a\.npz is the file that .*a\.npz is read from'):
        rerank(tmp_path / 'a.npz', '--out', tmp_path / '..' / tmp_path.name / 'a.npz')
    assert (tmp_path / 'a.npz').read_bytes() == before


def test_nan_in_a_bank_is_no_nan_of_the_scores(rerank, tmp_path):
    s = similarity(12)
    bank = {'bank/i2t': np.full_like(s, np.nan), 'bank/t2i': s.T}
    np.savez(tmp_path / 'a.npz', i2t=s, **bank)
    with pytest.raises(SystemExit, match='similarities of bank are NaN'):
        rerank(tmp_path / 'a.npz', '--method', 'qbnorm')


def test_whole_numbers(rerank, tmp_path):
    s = similarity(12)
    np.save(tmp_path / 's.npy', (s * 10).round().astype(np.int64))
    np.save(tmp_path / 'f.npy', (s * 10).round())
    assert rerank(tmp_path / 's.npy') == rerank(tmp_path / 'f.npy')


def test_a_sweep_without_positives(rerank, tmp_path):
    s = similarity(4)
    np.savez(tmp_path / 's.npz', i2t=s, positives=np.zeros(s.shape, bool))
    with pytest.raises(SystemExit, match='none of the 4 queries has a positive'):
        rerank(tmp_path / 's.npz', '--sweep', tmp_path / 's.png')
    assert not (tmp_path / 's.png').exists()


def test_pickles_on_request(rerank, tmp_path):
    s = similarity(12)
    np.save(tmp_path / 's.npy', np.array({'i2t': s}, dtype=object))
    assert rows_of(rerank(tmp_path / 's.npy', '--allow-pickle'))


@pytest.fixture(scope='module')
def banked(matrix, tmp_path_factory):
    """The matrix with similarities of training queries, in one file and in two."""
    rng = np.random.default_rng(1)
    s = np.load(matrix)
    bank = dict(
        i2t=rng.standard_normal((12, s.shape[1])).astype(np.float32), t2i=rng.standard_normal((50, 30)).astype('f4')
    )
    folder = tmp_path_factory.mktemp('bank')
    np.savez(folder / 'one.npz', i2t=s, t2i=s.T, **{f'bank/{name}': array for name, array in bank.items()})
    np.savez(folder / 'bank.npz', **bank)
    return folder, s, bank


@pytest.mark.parametrize(
    ('args', 'function', 'options', 'with_bank'),
    [
        (['--method', 'dsl', '--scale', 2], dual_softmax_rerank, dict(scale=2.0), False),
        (['--method', 'csls', '--k', 3], csls_rerank, dict(k=3), False),
        (['--method', 'qbnorm', '--scale', 2, '--dynamic'], querybank_rerank, dict(scale=2.0, dynamic=True), True),
        (['--method', 'qbnorm', '--bank', 'BANK'], querybank_rerank, {}, True),
        (['--method', 'csls', '--bank', 'BANK'], csls_rerank, {}, True),
        (['--method', 'dsl', '--bank', 'BANK'], dual_softmax_rerank, {}, True),
        (['--method', 'dsl', '--bank', 'ONE'], dual_softmax_rerank, {}, True),  # not by its scores
    ],
)
def test_hub_corrections(rerank, banked, tmp_path, args, function, options, with_bank):
    folder, s, bank = banked
    args = [dict(BANK=folder / 'bank.npz', ONE=folder / 'one.npz').get(a, a) for a in args]
    assert rows_of(rerank(folder / 'one.npz', *args, '--out', tmp_path / 'o.npz'))
    with np.load(tmp_path / 'o.npz') as written:
        for name, own in (('i2t', s), ('t2i', s.T)):
            expected = function(own, **(dict(bank=bank[name]) if with_bank else {}), **options)
            torch.testing.assert_close(torch.from_numpy(written[name]), expected)


def test_a_sweep_replaces_a_sweep_and_nothing_else(rerank, matrix, tmp_path):
    image, record = tmp_path / 'sweep.png', tmp_path / 'sweep.json'
    words = ('--method', 'rr', '--sweep', image)
    for text in ('[[0, 1]]', '{"images": []}', 'not json', ''):
        record.write_text(text)
        with pytest.raises(SystemExit, match='which is there and is no sweep'):
            rerank(matrix, *words)
        assert record.read_text() == text
        assert not image.exists()
    record.unlink()
    for _ in range(2):
        rerank(matrix, *words)
    assert [point['k'] for point in json.loads(record.read_text())['points']] == [5, 10, 20, 30, 50, 100]


@pytest.mark.parametrize('method', ['dsl', 'qbnorm', 'csls'])
def test_sweep_of_a_hub_correction(rerank, banked, tmp_path, method):
    folder, *_ = banked
    image = tmp_path / 'sweep.png'
    output = rerank(folder / 'one.npz', '--method', method, '--sweep', image)
    assert Image.open(image).width > 300
    assert f'rerank={method} rerank_cfg.{method}.' in output
    words = re.search(r'tools/rerank.py: (.*)', output).group(1).split()
    best = float(re.search(r'mR +([\d.]+) \(', output).group(1))
    rows = rows_of(rerank(folder / 'one.npz', *words))
    assert rows['mR'][2] == best
