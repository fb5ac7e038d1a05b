"""tools/analysis_tools/make_results.py on runs of made-up scores, written as run_seeds.py writes them."""

import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest
import torch

from galr_mm.cli.make_results import load_row, main, plus_minus
from galr_mm.cli.rerank import main as rerank
from galr_mm.cli.run_seeds import hardest
from galr_mm.evaluation import RecallAtK, build_rerankers
from galr_mm.evaluation.runs import load_run, save_run
from galr_mm.evaluation.sweep import GRIDS
from galr_mm.functional import bootstrap_over_seeds
from galr_mm.structures import RetrievalResult, RetrievalScores
from tests.helpers import run_tool

IMAGES = [f'{100 * i + j}.jpg' for i in range(21) for j in (3, 7)]  # two of each class of UCM


def result_of(quality, seed):
    """Scores that are the better, the higher ``quality``."""
    generator = torch.Generator().manual_seed(seed)
    raw = RetrievalScores.from_matrix(torch.randn(len(IMAGES), 2 * len(IMAGES), generator=generator), 2)
    i2t = raw.i2t + quality * raw.positives
    raw = RetrievalScores(i2t, i2t.t(), raw.positives)
    texts = [f'caption | {i}' for i in range(2 * len(IMAGES))]
    scores = {'': raw, **{name: r.rescore(raw) for name, r in build_rerankers('mr', dict(mr=dict(k=9))).items()}}
    return RetrievalResult(scores, [*range(len(IMAGES))], [f'/x/{n}' for n in IMAGES], [*range(len(texts))], texts)


def write(folder, name, seed, quality, **changes):
    """A run, with ``changes`` of its json."""
    results = {split: result_of(quality, seed + place) for place, split in ((0, 'val'), (100, 'test'))}
    metrics = {
        split: {p or 'raw': RecallAtK()(ranks) for p, ranks in result.ranks.items()}
        | {'chance': RecallAtK().chance(result.positives)}
        for split, result in results.items()
    }
    counts = dict(images=len(IMAGES), captions=2 * len(IMAGES))
    record = dict(
        name=name,
        seed=seed,
        config=f'configs/{name}.py',
        options=[],
        rerank={'mr': 'MultivariateRerank(k=9)'},
        init=['model.backbone.init_cfg.checkpoint: resnet18.pth'],
        feature_cache=False,
        best_epoch=2,
        metrics=metrics,
        curve=[dict(epoch=e, mR=metrics['val']['raw']['mR'] if e == 2 else 0.5 * e + seed) for e in range(1, 15)],
        data=dict(files={'ucm/dataset_ucm.json': 'abcdef0123'}, train=counts, val=counts, test=counts),
        model=dict(parameters=dict(total=dict(all=12_345_678, trained=9)), flops=dict(image=3.64e9, text=2e7), words=8),
        wall_minutes=3.0 + seed,
        machine=dict(cores=2, cpu='x', gpu=None, torch='2.0'),
        code=dict(trained=dict(commit='abc1234', dirty=False), evaluated=dict(commit='abc1234', dirty=False)),
        command=f'python tools/analysis_tools/run_seeds.py configs/{name}.py --seeds {seed} --name {name} --rerank mr',
        hardest=hardest(results['test']),
    )
    save_run(folder / name / f'seed_{seed}.json', record | changes, results)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    for seed in (0, 1, 2):
        write(folder, 'plain', seed, 2.0)
        write(folder, 'better', seed, 3.0)
    return folder


def page_of(tmp_path, head, rows='plain: plain\nbetter: GaLR\n'):
    page = tmp_path / 'results.md'
    page.write_text(f'# Results\n\n<!-- table: {head}\n{rows}-->\n<!-- end -->\n\nby hand | here\n')
    return page


def make(tmp_path, runs, head, *words, rows='plain: plain\nbetter: GaLR\n'):
    """Cells of the table that the tool writes, by row."""
    page = page_of(tmp_path, head, rows)
    main([str(page), '--runs', str(runs), *map(str, words)])
    text = page.read_text()
    assert text.endswith('<!-- end -->\n\nby hand | here\n')
    assert text.startswith('# Results\n\n<!-- table: ')
    cells = [line[2:-2].split(' | ') for line in text.splitlines() if line.startswith('|')]
    main([str(page), '--runs', str(runs), '--check'])  # what was written is up to date
    return cells


def recalls(runs, name, split, key, prefix='raw'):
    return [json.loads((runs / f'{name}/seed_{s}.json').read_text())['metrics'][split][prefix][key] for s in (0, 1, 2)]


def test_headline(runs, tmp_path):
    header, _, plain, better, chance = make(tmp_path, runs, 'headline')
    assert header[-2:] == ['test mR', 'test mR, mr']
    assert plain[:4] == ['plain', '3', '12.3 M', '3.6 / 0.02']
    values = recalls(runs, 'better', 'test', 'mR')
    assert better[-2] == f'{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}'
    assert better[-1] == plus_minus(recalls(runs, 'better', 'test', 'mR', 'mr'))
    assert better[5].split(' / ')[1] == plus_minus(recalls(runs, 'better', 'test', 'i2t/R@5'), 1)
    assert chance[4] == plus_minus(recalls(runs, 'plain', 'val', 'mR', 'chance')[:1])


def test_ablation(runs, tmp_path):
    figures = tmp_path / 'figures'
    header, _, plain, better = make(tmp_path, runs, 'ablation base=plain figure=differences', '--figures', figures)
    assert plain[:4] == ['plain', '3', '12.3 M', '3.6 / 0.02']
    assert plain[5] == ''
    rows = [load_row(runs / name, name) for name in ('plain', 'better')]
    positives = result_of(2.0, 0).positives
    interval = bootstrap_over_seeds(*(row.ranks('test') for row in rows), positives)['mR']
    assert better[7] == f'{interval.difference:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})'
    assert interval.low > 0
    assert cv2.imread(str(figures / 'differences.png')).std() > 5


def test_figure_of_another_table(runs, tmp_path, capsys):
    """A figure that was drawn before its rows changed, or never, is found by --check, which draws nothing."""
    page = page_of(tmp_path, 'curves figure=c')
    words = [str(page), '--runs', str(runs), '--figures', str(tmp_path / 'figures')]
    check = [*words, '--check']
    main(words)
    drawn = (tmp_path / 'figures/c.png').read_bytes()
    main(check)
    page.write_text(page.read_text().replace('better: GaLR\n', ''))
    main(words[:3])  # the table alone
    with pytest.raises(SystemExit, match='figures differ'):
        main(check)
    assert 'c.png was not drawn for the block' in capsys.readouterr().out
    assert (tmp_path / 'figures/c.png').read_bytes() == drawn
    main(words)
    main(check)
    for content in (b'', None):
        (tmp_path / 'figures/c.png').unlink()
        if content is not None:
            (tmp_path / 'figures/c.png').write_bytes(content)
        with pytest.raises(SystemExit, match='figures differ'):
            main(check)


def test_rerankers(runs, tmp_path):
    header, _, raw, mr, *_ = make(tmp_path, runs, 'rerankers')
    assert raw[:2] == ['plain', 'raw']
    assert mr[1] == '`mr`: MultivariateRerank(k=9)'
    change = np.mean(recalls(runs, 'plain', 'val', 'mR', 'mr')) - np.mean(recalls(runs, 'plain', 'val', 'mR'))
    assert mr[3].startswith(f'{change:+.2f} (')


def test_sweeps(tmp_path):
    folder = tmp_path / 'runs'
    for seed in (0, 1):
        write(folder, 'plain', seed, 2.0)
    sims = result_of(2.0, 0).raw.i2t
    np.save(tmp_path / 'val.npy', sims.numpy())
    for method in ('dsl', 'rr'):
        words = ['--captions-per-image', '2', '--sweep', str(folder / f'plain/sweep_{method}.png')]
        rerank([str(tmp_path / 'val.npy'), '--method', method, *words])
    header, _, *found = make(tmp_path, folder, 'sweeps', rows='plain: plain\n')
    rows = {row[1]: dict(zip(header, row, strict=True)) for row in found}
    assert rows.keys() == {'`dsl`', '`rr`'}
    raw = RetrievalScores.from_matrix(sims, captions_per_image=2)
    before = RecallAtK()(raw.ranks)['mR']
    for method, name, default in (('dsl', 'scale', 20.0), ('rr', 'k', 30)):
        gains = {}
        for value in GRIDS[method][name]:
            new = build_rerankers(method, {method: {name: value}})[method](raw)
            gains[value] = RecallAtK()(new.ranks)['mR'] - before
        best = max(gains, key=gains.get)
        row = rows[f'`{method}`']
        assert row['settings'] == str(len(gains))
        assert (row['best setting'], row['gain']) == (f'{name} = {best}', f'{gains[best]:+.2f}')
        assert row['gain of its defaults'] == f'{gains[default]:+.2f}'


def test_curves(runs, tmp_path):
    header, _, plain, _ = make(tmp_path, runs, 'curves figure=c', '--figures', tmp_path)
    assert header == ['val mR by epoch', '2', '4', '6', '8', '10', '12', '14']
    best = np.mean(recalls(runs, 'plain', 'val', 'mR'))
    assert plain == ['plain', f'{best:.1f}', '3.0', '4.0', '5.0', '6.0', '7.0', '8.0']
    assert cv2.imread(str(tmp_path / 'c.png')).std() > 5


def test_where_rows_come_from(runs, tmp_path):
    header, _, plain, _ = make(tmp_path, runs, 'runs')
    row = dict(zip(header, plain, strict=True))
    assert row['command'] == (
        '`python tools/analysis_tools/run_seeds.py configs/plain.py --seeds 0 1 2 --name plain --rerank mr`'
    )
    assert row['minutes a seed'] == '4.0'
    assert row['commit'] == 'abc1234'
    assert row['data'] == '42 / 42 / 42 images; dataset_ucm.json abcdef01'


def test_a_test_at_another_commit_is_said(tmp_path):
    code = dict(trained=dict(commit='abc1234', dirty=True), evaluated=dict(commit='def5678', dirty=False))
    write(tmp_path / 'runs', 'plain', 0, 2.0, code=code)
    header, _, plain = make(tmp_path, tmp_path / 'runs', 'runs', rows='plain: plain\n')
    assert plain[header.index('commit')] == 'abc1234+ (tested at def5678)'


def test_hardest(runs, tmp_path):
    for name in IMAGES:
        cv2.imwrite(str(tmp_path / name), np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    rows = 'plain: plain\n'
    words = ['--figures', tmp_path / 'figures', '--images', tmp_path]
    _, _, worst, *others = make(tmp_path, runs, 'hardest figure=h', *words, rows=rows)
    ranks = load_run(runs / 'plain/seed_0.json').splits['test'].ranks['']['t2i']
    assert worst[0] == f'caption \\| {ranks.argmax()}'
    assert worst[1].endswith(f' at {ranks.max() + 1}')
    assert len(others) == 11
    assert cv2.imread(str(tmp_path / 'figures/h.png')).std() > 5


def test_classes(runs, tmp_path):
    _, _, *lines = make(tmp_path, runs, 'classes figure=k', '--figures', tmp_path)
    cells = {name: (float(plain), float(better)) for name, plain, better in lines}
    assert len(cells) == 21
    split = load_run(runs / 'plain/seed_0.json').splits['test']
    assert split.images[2:4] == ['103.jpg', '107.jpg']
    found = []
    for seed in (0, 1, 2):
        ranks = load_run(runs / f'plain/seed_{seed}.json').splits['test'].ranks['']
        found += [float((r < k).double().mean()) for r in (ranks['i2t'][2:4], ranks['t2i'][4:8]) for k in (1, 5, 10)]
    assert cells['airplane'][0] == pytest.approx(100 * np.mean(found), abs=0.051)
    assert cv2.imread(str(tmp_path / 'k.png')).std() > 5


def test_a_changed_table_is_found(runs, tmp_path, capsys):
    page = page_of(tmp_path, 'headline')
    main([str(page), '--runs', str(runs)])
    text = page.read_text()
    value = plus_minus(recalls(runs, 'plain', 'test', 'mR'))
    page.write_text(text.replace(value, '99.99'))
    with pytest.raises(SystemExit, match='differ from the runs'):
        main([str(page), '--runs', str(runs), '--check'])
    assert '99.99' in page.read_text()
    assert re.search(r'^-\| plain .*99\.99', capsys.readouterr().out, re.M)
    main([str(page), '--runs', str(runs)])
    assert page.read_text() == text


def test_results_of_this_project():
    """What the docs say is what the runs give."""
    done = run_tool('tools/analysis_tools/make_results.py', '--check', '--figures', 'docs/images', check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert 'tables are as the runs give them' in done.stdout


@pytest.mark.parametrize(
    ('head', 'rows', 'message'),
    [
        ('nowhere', 'plain: x\n', 'expected one of headline'),
        ('headline base=plain', 'plain: x\n', 'expected one of headline'),
        ('curves figure=../up', 'plain: x\n', 'figure= is a name of letters'),
        ('curves figure=', 'plain: x\n', 'figure= is a name of letters'),
        ('headline', '', 'names no runs'),
        ('headline', 'nowhere: x\n', 'no seed_*.json in'),
        ('ablation base=better', 'plain: x\n', 'base=better is not one of its runs'),
        ('hardest', 'plain: x\nbetter: y\n', 'expected one run'),
        ('headline', 'plain: x\nother: y\n', 'other was measured on another val split'),
        ('headline', 'mixed: x\n', "seeds 0 and 1 differ in ['options']"),
        ('headline', 'changed: x\n', 'was changed between seeds (config_sha256)'),
        ('headline', 'broken: x\n', 'are not what run_seeds.py writes'),
        ('headline', 'cut: x\n', 'are not what run_seeds.py writes: BadZipFile'),
        ('headline', 'swapped: x\n', 'in the json and'),
        ('headline', 'edited: x\n', 'mR on test is 99.0 in the json and'),
        ('headline', 'copied: x\n', 'it is of seed 0'),
        ('headline', 'text: x\n', 'the json has no name, config'),
        ('headline', 'short: x\n', 'the json has no init'),
        ('headline', 'plain: x\nplain: y\n', 'names a run, or gives a label, twice'),
        ('headline', 'plain: x\nplain/: y\n', "'plain/' is no --name of run_seeds.py"),
        ('headline', 'alone: x\n', 'seed_1.npz has no .json beside it'),
        ('headline', 'plain: x\nscaled: y\n', 'the column of mr would hold '),
        ('sweeps', 'swept: x\n', 'sweep_mr.json is not what tools/rerank.py --sweep writes'),
        ('headline', 'flipped: x\n', 'are not what run_seeds.py writes: '),
        ('curves', 'plain: x\nbetter: x\n', 'names a run, or gives a label, twice'),
        ('', 'plain: x\n', 'expected one of headline'),
    ],
)
def test_clear_errors(runs, tmp_path, head, rows, message, monkeypatch):
    for name in ('plain', 'better'):
        (tmp_path / name).symlink_to(runs / name)
    write(tmp_path, 'mixed', 0, 2.0)
    write(tmp_path, 'mixed', 1, 2.0, options=['x=1'])
    write(tmp_path, 'broken', 0, 2.0)
    (tmp_path / 'broken/seed_0.npz').write_bytes(b'nothing')
    write(tmp_path, 'cut', 0, 2.0)
    os.truncate(tmp_path / 'cut/seed_0.npz', 1000)
    for seed in (0, 1, 2):  # the first of before the hash was kept
        write(tmp_path, 'changed', seed, 2.0, **(dict(config_sha256=f'{seed}') if seed else {}))
    for seed in (0, 1):
        write(tmp_path, 'swapped', seed, 2.0)
    shutil.copy(tmp_path / 'swapped/seed_0.npz', tmp_path / 'swapped/seed_1.npz')
    for name in ('edited', 'copied', 'short'):
        write(tmp_path, name, 0, 2.0)
    path = tmp_path / 'edited/seed_0.json'
    record = json.loads(path.read_text())
    record['metrics']['test']['raw']['mR'] = 99.0
    path.write_text(json.dumps(record))
    for kind in ('json', 'npz'):
        (tmp_path / f'copied/seed_0.{kind}').rename(tmp_path / f'copied/seed_7.{kind}')
    path = tmp_path / 'short/seed_0.json'
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != 'init'}))
    for name in ('alone', 'swept', 'flipped'):
        write(tmp_path, name, 0, 2.0)
    shutil.copy(tmp_path / 'alone/seed_0.npz', tmp_path / 'alone/seed_1.npz')
    (tmp_path / 'swept/sweep_mr.json').write_text('{"method": "mr", "raw": 1, "default": null, "points": [{"mR": 2}]}')
    write(tmp_path, 'scaled', 0, 2.0, rerank=dict(mr='MultivariateRerank(k=99)'))
    damaged = bytearray((tmp_path / 'flipped/seed_0.npz').read_bytes())
    damaged[60:90] = bytes(30)  # inside the deflated data of the first array
    (tmp_path / 'flipped/seed_0.npz').write_bytes(damaged)
    (tmp_path / 'text').mkdir()
    (tmp_path / 'text/seed_0.json').write_text('[]')
    monkeypatch.setattr(f'{__name__}.IMAGES', IMAGES[:30])
    write(tmp_path, 'other', 0, 2.0)
    with pytest.raises(SystemExit, match=re.escape(message)):
        main([str(page_of(tmp_path, head, rows)), '--runs', str(tmp_path)])


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(command=7), 'command is 7, expected str'),
        (dict(machine=None), 'machine is None, expected dict'),
        (dict(machine=dict(torch='2')), 'machine.cores is None, expected int'),
        (dict(model=dict(flops='x')), 'model.parameters.total.all is None, expected int'),
        (dict(code=dict(trained={})), 'code.trained.commit is None, expected str'),
        (dict(init=[3]), 'init is [3], expected a list of texts'),
        (dict(curve=[dict(epoch=2, mR=10.0)] * 2), 'the curve has an epoch twice'),
        (dict(wall_minutes=float('nan')), 'wall_minutes is nan, expected finite'),
        (dict(curve=[]), 'best_epoch is 2, which the curve does not have'),
        (dict(curve=[dict(epoch=2, mR=float('nan'))]), 'curve.0.mR is nan, expected finite'),
        (dict(curve='x'), "curve is 'x', expected list"),
        (dict(best_epoch=999), 'best_epoch is 999'),
        (dict(best_epoch=1), 'best_epoch is 1, and the curve has its highest mR at epoch 2'),
        (dict(curve=[dict(epoch=2, mR=10.0)]), 'mR on val, where its training had 10.00'),
    ],
)
def test_a_json_that_was_changed(tmp_path, changes, message):
    write(tmp_path, 'a', 0, 2.0, **changes)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_run(tmp_path / 'a/seed_0.json')


@pytest.mark.parametrize('change', [lambda v: v + 0.4, lambda v: v + 100, lambda v: v[1:], lambda v: v - 2])
def test_ranks_that_were_changed(tmp_path, change):
    write(tmp_path, 'a', 0, 2.0)
    path = tmp_path / 'a/seed_0.npz'
    arrays = dict(np.load(path))
    arrays['test/mr/i2t'] = change(arrays['test/mr/i2t'])
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match='test/mr/i2t is not 42 whole numbers from -1 to 83'):
        load_run(tmp_path / 'a/seed_0.json')
    path.write_bytes(b'')
    with pytest.raises(ValueError, match='EOFError'):
        load_run(tmp_path / 'a/seed_0.json')


def test_a_training_is_not_counted_twice(tmp_path):
    write(tmp_path, 'a', 0, 2.0)
    record = json.loads((tmp_path / 'a/seed_0.json').read_text())
    (tmp_path / 'a/seed_9.json').write_text(json.dumps({**record, 'seed': 9}))
    shutil.copy(tmp_path / 'a/seed_0.npz', tmp_path / 'a/seed_9.npz')
    with pytest.raises(ValueError, match='seeds 0 and 9 are one training'):
        load_row(tmp_path / 'a', 'a')


def test_a_block_without_an_end(runs, tmp_path):
    page = tmp_path / 'results.md'
    page.write_text('<!-- table: headline\nplain: plain\n-->\n')
    with pytest.raises(SystemExit, match='has no "-->" or no "<!-- end -->"'):
        main([str(page), '--runs', str(runs)])
    page.write_bytes(b'\xff')
    with pytest.raises(SystemExit, match=r'results\.md is not UTF-8'):
        main([str(page), '--runs', str(runs)])
