"""tools/train.py and tools/test.py as a user runs them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from galr_mm.evaluation import RecallAtK
from galr_mm.structures import RetrievalScores
from tests.conftest import ROOT, SMALL, run_tool

FLOAT = r'([\d.]+)'


@pytest.fixture(scope='module')
def trained(mini_config, tmp_path_factory):
    work = tmp_path_factory.mktemp('work')
    done = run_tool('tools/train.py', mini_config, '--work-dir', work)
    return work, done.stdout + done.stderr


@pytest.fixture(scope='module')
def checkpoint(trained):
    (path,) = trained[0].glob('best_mR_*.pth')
    return path


def metrics_of(work):
    """The metrics a test wrote."""
    (path,) = work.glob('*/*.json')
    return {k: v for k, v in json.loads(path.read_text().splitlines()[-1]).items() if 'R' in k}


def table_of(done):
    """The report's table, as printed by the first process."""
    lines = (done.stdout + done.stderr).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith('i2t/R@1'))
    return [line for line in lines[start : start + 4] if re.match(r' +i2t|raw|mr|chance', line)]


def run_script(script, *arguments):
    """Run one of the two-process scripts."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PORT': port, 'PYTHON': sys.executable}
    command = [script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(text):
    return re.findall(rf'loss: {FLOAT}', text)


def test_training_validates_and_keeps_the_best(trained):
    work, log = trained
    assert "split 'val' of" in log
    assert f'{SMALL["val"]} images, {5 * SMALL["val"]} captions' in log
    assert 'NO PROPOSALS' not in log
    assert (work / 'epoch_2.pth').exists()


def test_same_seed_same_numbers(trained, mini_config, tmp_path):
    again = run_tool('tools/train.py', mini_config, '--work-dir', tmp_path)
    assert losses(again.stdout + again.stderr) == losses(trained[1]) != []


def test_raw_and_mr_and_outputs(mini_config, checkpoint, tmp_path):
    plain = run_tool('tools/test.py', mini_config, checkpoint, '--work-dir', tmp_path / 'plain')
    assert 'mr' not in re.findall(r'^(\w+) +\d', plain.stdout, re.M)
    options = ['--cfg-options', 'rerank=mr', 'rerank_cfg.mr.k=7']
    out, show = tmp_path / 'scores.npz', tmp_path / 'show'
    done = run_tool(
        'tools/test.py',
        mini_config,
        checkpoint,
        '--work-dir',
        tmp_path / 'mr',
        '--out',
        out,
        '--show-dir',
        show,
        *options,
    )
    log = done.stdout + done.stderr
    assert 'MultivariateRerank(k=7)' in log
    assert "split 'test' of" in log
    assert re.search(r'^raw +\d', log, re.M)
    assert re.search(r'^mr +\d', log, re.M)
    assert re.search(r'^chance +\d', log, re.M)
    raw, both = metrics_of(tmp_path / 'plain'), metrics_of(tmp_path / 'mr')
    assert len(raw) == 7
    assert {k: both[k] for k in raw} == raw
    assert set(both) == set(raw) | {f'mr/{k}' for k in raw}
    with np.load(out) as saved:
        assert saved['mr/t2i'].shape == (5 * SMALL['test'], SMALL['test'])
        assert saved['texts'].shape == (5 * SMALL['test'],)
    assert sorted(p.name for p in show.iterdir()) == ['mr_hits.png', 'raw_hits.png']
    assert (show / 'mr_hits.png').stat().st_size > 20_000


def test_unknown_reranker_fails_before_the_first_batch(mini_config, checkpoint, tmp_path):
    done = run_tool(
        'tools/test.py', mini_config, checkpoint, '--work-dir', tmp_path, '--cfg-options', 'rerank=foo', check=False
    )
    assert done.returncode != 0
    assert 'mr, rr, product' in done.stderr
    assert 'Epoch(test)' not in done.stdout


def test_hook_is_added_where_a_config_replaced_it(mini_config, checkpoint, tmp_path):
    config = tmp_path / 'own_hooks.py'
    config.write_text(f"_base_ = '{mini_config}'\ncustom_hooks = [dict(type='EmptyCacheHook')]\n")
    done = run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path, '--cfg-options', 'rerank=[mr,rr]')
    assert re.search(r'^rr +\d', done.stdout + done.stderr, re.M)


def test_two_processes_give_the_numbers_of_one(mini_config, checkpoint, tmp_path):
    """11 images in two processes: one is padding."""
    arguments = [mini_config, checkpoint, '--work-dir', tmp_path, '--cfg-options', 'rerank=mr']
    one = run_tool('tools/test.py', *arguments, '--out', tmp_path / 'one.npz')
    two = run_script('tools/dist_test.sh', *arguments[:2], 2, *arguments[2:], '--out', tmp_path / 'two.npz')
    assert table_of(two) == table_of(one)
    assert len(table_of(one)) == 4  # header, raw, mr, chance
    with np.load(tmp_path / 'one.npz') as a, np.load(tmp_path / 'two.npz') as b:
        for name in ('text_ids', 'image_ids', 'texts', 'positives'):
            np.testing.assert_array_equal(a[name], b[name])
        positives = torch.from_numpy(a['positives'])
        for prefix in ('', 'mr/'):
            recalls = [
                RecallAtK()(
                    RetrievalScores(
                        torch.from_numpy(s[f'{prefix}i2t']), torch.from_numpy(s[f'{prefix}t2i']), positives
                    ).ranks
                )
                for s in (a, b)
            ]
            assert recalls[0] == recalls[1]


def test_two_processes_train(mini_config, tmp_path):
    run_script('tools/dist_train.sh', mini_config, 2, '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1')
    assert (tmp_path / 'epoch_1.pth').exists()


def test_killed_training_goes_on(mini_config, tmp_path):
    """SIGKILL in the middle of the second epoch, then --resume."""
    command = [sys.executable, 'tools/train.py', mini_config, '--work-dir', tmp_path]
    options = ['--cfg-options', 'train_dataloader.batch_size=4', 'train_cfg.max_epochs=3']
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    log = tmp_path / 'log.txt'
    with log.open('w') as file:
        process = subprocess.Popen([*map(str, command), *options], stdout=file, stderr=file, cwd=ROOT, env=env)
        deadline = time.monotonic() + 300
        while not re.search(r'Epoch\(train\) +\[2\]\[ ?[5-9]', log.read_text()):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / 'epoch_2.pth').exists()
    done = run_tool(*command[1:], '--resume', *options)
    text = done.stdout + done.stderr
    assert re.search(r'resumed epoch: 1', text)
    assert 'Epoch(train)  [1]' not in text.split('resumed epoch')[1]
    assert (tmp_path / 'epoch_3.pth').exists()


def test_training_without_proposals_says_so(mini_config, tmp_path):
    options = [f'{split}_dataloader.dataset.proposal_file=auto' for split in ('train', 'val')]
    done = run_tool(
        'tools/train.py', mini_config, '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1', *options
    )
    log = (done.stdout + done.stderr).splitlines()
    said = [line for line in log if 'NO PROPOSALS' in line]
    assert len(said) == 1
    assert 'tools/extract_proposals.py' in said[0]


def test_no_validate_and_auto_scale_lr(mini_config, tmp_path):
    done = run_tool(
        'tools/train.py',
        mini_config,
        '--work-dir',
        tmp_path,
        '--no-validate',
        '--auto-scale-lr',
        '--cfg-options',
        'train_cfg.max_epochs=1',
    )
    log = done.stdout + done.stderr
    assert 'Epoch(val)' not in log
    assert 'Scaling the original LR by 0.2' in log  # batch 20 of 100
    assert (tmp_path / 'epoch_1.pth').exists()


def test_weights_of_another_model_are_refused(mini_config, checkpoint, tmp_path):
    option = 'model.fusion.mode=sum'
    done = run_tool(
        'tools/test.py', mini_config, checkpoint, '--work-dir', tmp_path, '--cfg-options', option, check=False
    )
    assert done.returncode != 0
    assert 'does not fit the model' in done.stderr
    assert 'fusion.global_self' in done.stderr
    assert 'chance' not in done.stdout


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['tools/train.py', 'CONFIG', '--cfg-options', 'rerannk=mr'], "no 'rerannk'; did you mean 'rerank'?"),
        (['tools/train.py', 'CONFIG', '--cfg-options', 'data_root=/x'], 'GALR_DATA_ROOT'),
        (['tools/train.py', 'CONFIG', '--launcher', 'pytorch'], 'torchrun'),
        (['tools/test.py', 'CONFIG', 'CONFIG', '--out', '/proc/x/o.npz'], '--out: cannot write into /proc/x'),
        (['tools/train.py', 'nowhere.py'], 'no config at nowhere.py'),
        (['tools/train.py', 'CONFIG', '--resume', 'nowhere.pth'], 'no checkpoint at nowhere.pth'),
        (['tools/test.py', 'CONFIG', 'nowhere.pth'], 'no checkpoint at nowhere.pth'),
        (['tools/test.py', 'CONFIG'], 'CHECKPOINT is missing'),
        (['tools/test.py', 'CONFIG', 'CONFIG', '--out', 'x.pkl'], 'x.pkl, expected a name that ends in .npz'),
    ],
)
def test_clear_errors(mini_config, arguments, message):
    done = run_tool(*[mini_config if a == 'CONFIG' else a for a in arguments], check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert 'Traceback' not in done.stderr


def test_checkpoints_with_averaged_weights(mini_config, tmp_path):
    """EMAHook keeps averaged weights in checkpoints; they are the ones that are tested."""
    config = tmp_path / 'ema.py'
    config.write_text(f"_base_ = '{mini_config}'\ncustom_hooks = [dict(type='EMAHook', momentum=0.5)]\n")
    done = run_tool('tools/train.py', config, '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1')
    validated = float(re.search(r'Epoch\(val\).* mR: ([\d.]+)', done.stdout + done.stderr)[1])
    (best,) = tmp_path.glob('best_mR_*.pth')
    options = ['test_dataloader.dataset.split=val', 'test_dataloader.dataset.proposal_file=instances_val.json']
    run_tool('tools/test.py', config, best, '--work-dir', tmp_path / 'test', '--cfg-options', *options)
    assert metrics_of(tmp_path / 'test')['mR'] == pytest.approx(validated, abs=1e-3)
