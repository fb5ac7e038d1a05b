"""tools/train.py and tools/test.py as a user runs them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file

from galr_mm.cli.common import load_config, prepare_cpu_processes, read_config
from galr_mm.cli.test import main as run_test
from galr_mm.cli.test import merge_args as merge_test_args
from galr_mm.cli.test import parse_args as parse_test_args
from galr_mm.cli.test import require_weights, use_tta
from galr_mm.cli.train import main as train
from galr_mm.cli.train import merge_args as merge_train_args
from galr_mm.cli.train import parse_args as parse_train_args
from galr_mm.cli.verify_dataset import main as verify
from galr_mm.evaluation import RecallAtK, csls_rerank, dual_softmax_rerank, querybank_rerank
from galr_mm.structures import RetrievalScores
from galr_mm.utils.config import LINES, READ_BY_RUNS
from tests.helpers import ROOT, SMALL, environment, free_port, run_tool

MINI = str(ROOT / 'configs/galr_mini.py')
FLOAT = r'([\d.]+)'


def metrics_of(work):
    """The metrics a test wrote."""
    (path,) = work.glob('*/*.json')
    return {k: v for k, v in json.loads(path.read_text().splitlines()[-1]).items() if 'R' in k}


def table_of(done):
    """The report's table, as printed by the first process."""
    lines = (done.stdout + done.stderr).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith('i2t/R@1'))
    return [line for line in lines[start : start + 5] if re.match(r' +i2t|raw|mr|qbnorm|chance', line)]


def run_script(script, *arguments, env=None):
    """Run one of the two-process scripts."""
    env = environment(PORT=free_port(), PYTHON=sys.executable, **(env or {}))
    command = [script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def settings(path, text):
    path.write_text(text)
    return path


def losses(text):
    return re.findall(rf'loss: {FLOAT}', text)


def test_training_validates_and_keeps_the_best(trained):
    work, log = trained
    assert "split 'val' of" in log
    assert f'{SMALL["val"]} images, {5 * SMALL["val"]} captions' in log
    assert 'No proposals' not in log
    assert (work / 'epoch_2.pth').exists()


@pytest.mark.slow
def test_same_seed_same_numbers(trained, mini_config, tmp_path):
    again = run_tool('tools/train.py', mini_config, '--work-dir', tmp_path, fresh=True)
    assert losses(again.stdout + again.stderr) == losses(trained[1]) != []


def test_all_captions_of_an_image_in_one_step(mini_config, tmp_path):
    options = ['train_dataloader.dataset.captions=all', 'train_dataloader.batch_size=12', 'train_cfg.max_epochs=1']
    done = run_tool('tools/train.py', mini_config, '--work-dir', tmp_path, '--cfg-options', *options)
    log = done.stdout + done.stderr
    assert re.findall(r'Epoch\(train\) +\[1\]\[ *(\d)/(\d)\]', log) == [('1', '2'), ('2', '2')]  # 24 images
    assert len(losses(log)) == 2
    assert (tmp_path / 'epoch_1.pth').exists()


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


def test_hub_corrections_and_a_bank_of_training_queries(mini_config, checkpoint, tmp_path):
    out = tmp_path / 'scores.npz'
    options = ['rerank=[dsl,csls,qbnorm]', 'rerank_cfg.qbnorm.scale=10', 'rerank_cfg.csls.bank=True']
    arguments = [mini_config, checkpoint, '--work-dir', tmp_path / 'work', '--out', out, '--cfg-options', *options]
    done = run_tool('tools/test.py', *arguments)
    log = done.stdout + done.stderr
    assert f"encoding {SMALL['train']} of {SMALL['train']} images of split 'train'" in log
    assert 'QueryBankRerank(scale=10, dynamic=False)' in log
    assert 'DualSoftmaxRerank(scale=20.0)' in log
    metrics = metrics_of(tmp_path / 'work')
    with np.load(out) as saved:
        arrays = {name: torch.from_numpy(saved[name]) for name in saved.files if saved[name].dtype.kind in 'fb'}
    assert arrays['bank/i2t'].shape == (SMALL['train'], 5 * SMALL['test'])
    assert arrays['bank/t2i'].shape == (5 * SMALL['train'], SMALL['test'])
    expected = dict(
        dsl=[dual_softmax_rerank(arrays[name]) for name in ('i2t', 't2i')],
        csls=[csls_rerank(arrays[name], bank=arrays[f'bank/{name}']) for name in ('i2t', 't2i')],
        qbnorm=[querybank_rerank(arrays[name], arrays[f'bank/{name}'], 10) for name in ('i2t', 't2i')],
    )
    for prefix, (i2t, t2i) in expected.items():
        torch.testing.assert_close(arrays[f'{prefix}/i2t'], i2t)
        recalls = RecallAtK()(RetrievalScores(i2t, t2i, arrays['positives']).ranks)
        assert {name: metrics[f'{prefix}/{name}'] for name in recalls} == pytest.approx(recalls, abs=0.01)


@pytest.mark.slow
def test_test_time_augmentation(mini_config, checkpoint, tmp_path):
    """Features are means over the views: scores of an image are those means too, up to its feature's length."""
    load = "dict(type='galr_mm.LoadImageWithProposals'), dict(type='mmengine.Resize', scale=(64, 64))"
    first, second = (f"dict(type='galr_mm.RandomD4', views=['{view}'])" for view in ('identity', 'rot90'))
    pack = "dict(type='galr_mm.PackRetrievalInputs')"

    def scores(name, text, *flags):
        config, out = settings(tmp_path / f'{name}.py', f"_base_ = '{mini_config}'\n{text}"), tmp_path / f'{name}.npz'
        run_tool('tools/test.py', config, checkpoint, '--work-dir', tmp_path / name, '--out', out, *flags)
        with np.load(out) as saved:
            return saved['i2t']

    views = [
        scores(f'view{i}', f'test_dataloader = dict(dataset=dict(pipeline=[{load}, {view}, {pack}]))')
        for i, view in enumerate((first, second))
    ]
    mean = np.mean(views, axis=0)
    assert np.abs(views[0] - views[1]).max() > 1e-3
    both = f"tta_pipeline = [{load}, dict(type='mmcv.TestTimeAug', transforms=[[{first}, {second}], [{pack}]])]"
    merged = scores('both', both, '--tta')
    factor = (merged / mean).mean(axis=1, keepdims=True)
    assert (factor > 1).all()
    np.testing.assert_allclose(merged, factor * mean, rtol=1e-4, atol=1e-5)
    eight = scores('eight', '', '--tta', '--cfg-options', 'rerank=qbnorm')  # its bank has views too
    assert eight.shape == mean.shape
    assert np.abs(eight - merged).max() > 1e-3


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(tta_pipeline=[]), 'tta_pipeline needs one TestTimeAug'),
        (dict(tta_pipeline=3), 'tta_pipeline needs one TestTimeAug'),
        (dict(tta_pipeline=[dict(scale=8)]), 'tta_pipeline needs one TestTimeAug'),
        (dict(tta_pipeline=[dict(type='mmengine.Resize', scale=8)]), 'tta_pipeline needs one TestTimeAug'),
        (dict(tta_pipeline=[dict(type='mmcv.TestTimeAug', transforms=[])]), 'lists of at least one transform'),
        (dict(tta_pipeline=[dict(type='TestTimeAug', transforms=[[], [dict(type='x')]])]), 'lists of at least one'),
        (dict(tta_model='galr_mm.RetrievalTTAModel'), "tta_model is 'galr_mm.RetrievalTTAModel', expected a dict"),
        (dict(test_dataloader=dict(dataset=dict(pipeline=[]))), 'has no pipeline to take views in'),
        (dict(test_dataloader=dict(dataset=dict(type='x'))), 'has no pipeline to take views in'),
    ],
)
def test_views_that_cannot_be(changes, message):
    cfg = dict(model=dict(type='x'), test_dataloader=dict(dataset=dict(pipeline=[dict(type='pack')])))
    with pytest.raises(SystemExit, match=message):
        use_tta(Config(cfg | changes))


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


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize('flags', [[], ['--tta']], ids=['', 'tta'])
def test_two_processes_give_the_numbers_of_one(flags, mini_config, checkpoint, tmp_path):
    """11 images in two processes: one is padding."""
    arguments = [mini_config, checkpoint, '--work-dir', tmp_path, '--cfg-options', 'rerank=[mr,qbnorm]', *flags]
    one = run_tool('tools/test.py', *arguments, '--out', tmp_path / 'one.npz')
    two = run_script('tools/dist_test.sh', *arguments[:2], 2, *arguments[2:], '--out', tmp_path / 'two.npz')
    assert table_of(two) == table_of(one)
    assert len(table_of(one)) == 5  # header, raw, mr, qbnorm, chance
    with np.load(tmp_path / 'one.npz') as a, np.load(tmp_path / 'two.npz') as b:
        for name in ('text_ids', 'image_ids', 'texts', 'positives'):
            np.testing.assert_array_equal(a[name], b[name])
        positives = torch.from_numpy(a['positives'])
        np.testing.assert_allclose(a['bank/t2i'], b['bank/t2i'], atol=1e-5)
        for prefix in ('', 'mr/', 'qbnorm/'):
            recalls = [
                RecallAtK()(
                    RetrievalScores(
                        torch.from_numpy(s[f'{prefix}i2t']), torch.from_numpy(s[f'{prefix}t2i']), positives
                    ).ranks
                )
                for s in (a, b)
            ]
            assert recalls[0] == recalls[1]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train(mini_config, tmp_path):
    run_script('tools/dist_train.sh', mini_config, 2, '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=1')
    assert (tmp_path / 'epoch_1.pth').exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_with_a_part_that_the_loss_does_not_reach(mini_config, tmp_path):
    """The second step would fail without find_unused_parameters."""
    (tmp_path / 'spare.py').write_text("""
import torch
from galr_mm.models import GaLR
from galr_mm.registry import MODELS

@MODELS.register_module()
class WithSparePart(GaLR):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.spare = torch.nn.Linear(2, 2)
""")
    text = f"""
_base_ = '{mini_config}'
custom_imports = dict(imports=['spare'])
model = dict(type='galr_mm.WithSparePart')
train_dataloader = dict(batch_size=5)
train_cfg = dict(max_epochs=1)
"""
    config = settings(tmp_path / 'spare_config.py', text)
    env = {'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}
    option = 'find_unused_parameters=True'
    run_script('tools/dist_train.sh', config, 2, '--work-dir', tmp_path, '--cfg-options', option, env=env)
    assert (tmp_path / 'epoch_1.pth').exists()


@pytest.mark.slow
def test_killed_training_goes_on(mini_config, tmp_path):
    """SIGKILL in the middle of the second epoch, then --resume."""
    command = [sys.executable, 'tools/train.py', mini_config, '--work-dir', tmp_path]
    options = ['--cfg-options', 'train_dataloader.batch_size=8', 'train_cfg.max_epochs=3']
    log = tmp_path / 'log.txt'
    with log.open('w') as file:
        process = subprocess.Popen(
            [*map(str, command), *options], stdout=file, stderr=file, cwd=ROOT, env=environment()
        )
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
    said = [line for line in log if 'No proposals' in line]
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
    ('main', 'arguments', 'message'),
    [
        (train, ['CONFIG', '--cfg-options', 'rerannk=mr'], "no 'rerannk'; did you mean 'rerank'?"),
        (train, [MINI, '--cfg-options', 'max_epoch=2'], "no 'max_epoch'; did you mean 'max_epochs'?"),
        (train, [MINI, '--cfg-options', 'batchsize=2'], "no 'batchsize'; did you mean 'batch_size'?"),
        (train, [MINI, '--cfg-options', 'data_root=/x'], 'GALR_DATA_ROOT'),
        (train, ['CONFIG', '--launcher', 'pytorch'], 'torchrun'),
        (run_test, ['CONFIG', 'CONFIG', '--out', '/proc/x/o.npz'], '--out: cannot write into /proc/x'),
        (train, ['nowhere.py'], 'no config at nowhere.py'),
        (train, ['CONFIG', '--cfg-options', 'rerank'], '2'),
        (train, ['CONFIG', '--work-dir', f'{MINI}/x'], f'--work-dir: cannot write into {MINI}/x'),
        (run_test, ['CONFIG', 'CONFIG', '--work-dir', f'{MINI}/x'], f'--work-dir: cannot write into {MINI}/x'),
        (train, ['CONFIG', '--resume', 'nowhere.pth'], 'no checkpoint at nowhere.pth'),
        (train, ['CONFIG', '--amp'], 'mixed precision training needs a GPU'),
        (run_test, ['CONFIG', 'nowhere.pth'], 'no checkpoint at nowhere.pth'),
        (run_test, ['CONFIG'], 'CHECKPOINT is missing: the config trains a model'),
        (run_test, ['CONFIG', 'CONFIG', '--cfg-options', 'rerank_cfg.mr.k=3'], 'without rerank=mr'),
        (train, ['CONFIG', '--cfg-options', 'model.fusion.mod=sum'], "'mod'; did you mean 'mode'?"),
        (run_test, ['CONFIG', 'CONFIG', '--tta', '--feature-cache', '.'], '--tta needs the views of test images'),
        (run_test, ['CONFIG', 'CONFIG', '--out', 'x.pkl'], 'x.pkl, expected a name that ends in .npz'),
        (
            run_test,
            ['CONFIG', 'CONFIG', '--out', 'x.npz', '--cfg-options', 'test_evaluator=[A]'],
            'need test_evaluator',
        ),
    ],
)
def test_clear_errors(mini_config, arguments, message, monkeypatch, main):
    monkeypatch.delenv('RANK', raising=False)
    if '--amp' in arguments and torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    with pytest.raises(SystemExit, match=re.escape(message)):
        main([str(mini_config) if a == 'CONFIG' else a for a in arguments])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', "cannot be read as a config: SyntaxError: '(' was never closed"),
        ('x = 1 / 0', 'cannot be read as a config: ZeroDivisionError: division by zero'),
        ("_base_ = 'nowhere.py'", 'cannot be read as a config: FileNotFoundError'),
        ('', 'has no model, '),
    ],
)
@pytest.mark.parametrize('main', [train, run_test, verify])
def test_a_broken_config(tmp_path, text, message, main):
    if main is verify and not text:
        message = 'c.py has no data set to verify'
    with pytest.raises(SystemExit, match=re.escape(message)):
        main([str(settings(tmp_path / 'c.py', text))])


def test_an_error_is_one_line(mini_config):
    """As a user sees it: the message, no traceback, an exit status."""
    done = run_tool('tools/test.py', mini_config, check=False)
    assert done.returncode == 1
    assert 'CHECKPOINT is missing' in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr


CLIP = sorted((ROOT / 'configs/clip').glob('*.py'))


@pytest.mark.parametrize('path', CLIP, ids=lambda p: p.stem)
def test_without_a_checkpoint_only_what_is_not_trained(path):
    args = parse_test_args([str(path)])
    if 'zero-shot' in path.stem:
        assert merge_test_args(load_config(args), args).test_dataloader is not None
    else:
        with pytest.raises(SystemExit, match='CHECKPOINT is missing: .* train_dataloader'):
            merge_test_args(load_config(args), args)


def test_a_random_part_is_refused_when_no_checkpoint_is_given(mini_config, tmp_path):
    """The config trains nothing, but its model says nothing of weights from files."""
    nothing = [f'{name}=None' for name in ('train_cfg', 'train_dataloader', 'optim_wrapper', 'param_scheduler')]
    nothing += [f'val_{name}=None' for name in ('cfg', 'dataloader', 'evaluator')]
    arguments = [mini_config, '--work-dir', tmp_path, '--cfg-options', *nothing]
    done = run_tool('tools/test.py', *arguments, check=False)
    assert done.returncode == 1
    assert 'CHECKPOINT is missing: not every weight of GaLR' in done.stderr.splitlines()[-1]
    assert 'chance' not in done.stdout


def test_weights_from_files():
    model = torch.nn.Linear(1, 1)
    with pytest.raises(SystemExit, match='not every weight of Linear'):
        require_weights(model)
    model.weights_from_files = True
    require_weights(model)
    require_weights(torch.nn.parallel.DataParallel(model))


class TestOptions:
    """``--cfg-options`` accepts what mmengine accepts."""

    @pytest.fixture
    def foreign(self, tmp_path):
        text = "size = 3\nmetainfo = dict(classes=('a',))\nmodel = dict(type='Foreign', size=size)\n"
        return settings(tmp_path / 'foreign.py', text)

    @pytest.mark.parametrize(
        'option', ['size', 'metainfo', 'dataset', 'max_epochs', 'data_root', 'my_flag', 'seed', 'model.depth']
    )
    def test_a_foreign_config(self, foreign, option):
        assert read_config(str(foreign), {option: 5})[option.split('.')[0]] in (
            5,
            dict(type='Foreign', size=3, depth=5),
        )

    def test_a_key_of_ones_own_on_a_shipped_config(self):
        assert read_config(str(MINI), {'my_flag': 1}).my_flag == 1

    @pytest.mark.parametrize(
        ('option', 'meant'),
        [
            ('rerank_cgf.mr.k', 'rerank_cfg'),
            ('train_cfgs', 'train_cfg'),
            ('load_form', 'load_from'),
            ('test_dataloder.batch_size', 'test_dataloader'),
            ('custom_hook', 'custom_hooks'),
            ('modle.fusion.mode', 'model'),
            ('rerenk', 'rerank'),
            ('resmue', 'resume'),
        ],
    )
    @pytest.mark.parametrize('shipped', [True, False])
    def test_misspelt(self, foreign, option, meant, shipped):
        with pytest.raises(SystemExit, match=f'--cfg-options {option}: .*did you mean {meant!r}'):
            read_config(str(MINI if shipped else foreign), {option: 1})

    @pytest.mark.parametrize(
        'option',
        ["custom_hooks=[dict(type='x',bank_images=3)]", "rerank_cfg={'mr':1,'dsl':2}", 'model.loss=dict(type=1)'],
    )
    def test_a_dict(self, option, capsys):
        with pytest.raises(SystemExit, match='2'):
            train([str(MINI), '--cfg-options', option])
        assert 'holds a dict; name what is inside' in capsys.readouterr().err

    def test_a_name_of_the_config_is_never_misspelt(self, tmp_path):
        config = settings(tmp_path / 'c.py', 'train_cfgs = 1\n')
        assert read_config(str(config), {'train_cfgs': 2}).train_cfgs == 2

    @pytest.mark.parametrize(
        'name', ['galr_ucm', 'galr_ucm_128px', 'detection/rtmdet-tiny_nwpu', 'clip/galr_clip_vit-b-32_ucm']
    )
    def test_variables_of_shipped_configs(self, name):
        """Every top-level name that no run reads has been copied."""
        path = ROOT / f'configs/{name}.py'
        variables = [key for key in Config.fromfile(path) if key not in READ_BY_RUNS and key not in LINES]
        assert 'data_root' in variables
        for variable in variables:
            with pytest.raises(SystemExit, match='is copied into other settings'):
                read_config(str(path), {variable: 1})

    def test_a_hook_reads_ones_own_key(self, mini_config, checkpoint, tmp_path, monkeypatch):
        (tmp_path / 'flag_hook.py').write_text("""
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class FlagHook(Hook):
    def before_test(self, runner):
        print('my_flag is', runner.cfg.my_flag)
""")
        text = f"_base_ = '{mini_config}'\ncustom_imports = dict(imports=['flag_hook'])\n"
        config = settings(tmp_path / 'mine.py', text + "custom_hooks = [dict(type='FlagHook')]\n")
        arguments = [config, checkpoint, '--work-dir', tmp_path / 'work', '--cfg-options', 'my_flag=7']
        done = run_tool('tools/test.py', *arguments, env={'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'})
        assert 'my_flag is 7' in done.stdout


@pytest.mark.parametrize(
    'hooks',
    [
        '',
        'default_hooks = None',
        'default_hooks = dict(checkpoint=None)',
        "default_hooks = dict(checkpoint=dict(type='CheckpointHook', save_best='mR', rule='greater'))",
        "custom_hooks = [dict(type='CheckpointHook', save_best='mR', rule='greater')]",
    ],
)
def test_no_validate_without_our_hooks(tmp_path, hooks):
    config = settings(tmp_path / 'c.py', f'val_cfg = val_dataloader = val_evaluator = dict()\n{hooks}\n')
    args = parse_train_args([str(config), '--no-validate'])
    cfg = merge_train_args(load_config(args), args)
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    assert 'save_best' not in str(cfg.to_dict())


@pytest.mark.parametrize(
    ('text', 'wrapper'),
    [
        ('', dict(broadcast_buffers=False, find_unused_parameters=False, device_ids=None)),
        ('find_unused_parameters = True', dict(broadcast_buffers=False, find_unused_parameters=True, device_ids=None)),
        ('model_wrapper_cfg = dict(static_graph=True)', dict(static_graph=True, device_ids=None)),
        ("model_wrapper_cfg = dict(type='mine.Wrapper')", dict(type='mine.Wrapper')),
    ],
)
def test_cpu_processes_are_wrapped_as_the_config_says(tmp_path, text, wrapper, monkeypatch):
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    cfg = Config.fromfile(settings(tmp_path / 'c.py', text + '\n'))
    prepare_cpu_processes(cfg)
    assert cfg.model_wrapper_cfg == wrapper


@pytest.mark.slow
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


def test_a_config_and_a_checkpoint_are_enough(mini_config, checkpoint, trained, tmp_path):
    """Weights as .safetensors, and no vocabulary file: the words are those of the checkpoint, the numbers the same."""
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / 'a.safetensors')
    gone = f'model.text_encoder.vocabulary={tmp_path}/gone.json'
    tables = [
        table_of(run_tool('tools/test.py', mini_config, file, '--work-dir', tmp_path / work, *options))
        for file, work, options in (
            (checkpoint, 'one', []),
            (tmp_path / 'a.safetensors', 'two', ['--cfg-options', gone]),
        )
    ]
    assert tables[0] == tables[1] != []
    with pytest.raises(SystemExit, match=r'no vocabulary at .*gone\.json; make one with'):
        train([str(mini_config), '--work-dir', str(tmp_path / 'three'), '--cfg-options', gone])


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('empty.pth', r'empty\.pth cannot be read: it is empty'),
        ('page.pth', r'page\.pth cannot be read: it is a web page'),
        ('list.pth', r'list\.pth is not a checkpoint'),
        ('http://127.0.0.1:9/a.pth', r'http://127\.0\.0\.1:9/a\.pth cannot be downloaded'),
    ],
)
@pytest.mark.parametrize('kind', ['test', 'load_from of a test', 'load_from of a training', 'resume'])
def test_what_a_run_cannot_start_from(mini_config, tmp_path, name, message, kind):
    (tmp_path / 'empty.pth').touch()
    (tmp_path / 'page.pth').write_text('<html>')
    torch.save([1], tmp_path / 'list.pth')
    path = name if '://' in name else str(tmp_path / name)
    tool, options = {
        'test': (run_test, [path]),
        'load_from of a test': (run_test, ['--cfg-options', f'load_from={path}']),
        'load_from of a training': (train, ['--cfg-options', f'load_from={path}']),
        'resume': (train, ['--resume', path]),
    }[kind]
    with pytest.raises(SystemExit, match=message) as error:
        tool([str(mini_config), *options, '--work-dir', str(tmp_path / 'work')])
    assert len(str(error.value)) < 1000


def test_resume_keeps_the_weights_to_start_from(mini_config, tmp_path):
    """``--resume`` in an empty work directory starts from them; ``--resume CHECKPOINT`` takes their place."""
    words = [str(mini_config), '--cfg-options', 'load_from=start.pth', '--resume']
    args = parse_train_args(words)
    cfg = merge_train_args(load_config(args, ('model',)), args)
    assert (cfg.resume, cfg.load_from) == ('auto', 'start.pth')
    checkpoint = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict={}), checkpoint)
    args = parse_train_args([*words, str(checkpoint)])
    cfg = merge_train_args(load_config(args, ('model',)), args)
    assert (cfg.resume, cfg.load_from) == (True, str(checkpoint))


def test_weights_alone_cannot_be_resumed(mini_config, tmp_path):
    save_file({'a': torch.zeros(1)}, tmp_path / 'a.safetensors')
    with pytest.raises(SystemExit, match=r'a\.safetensors holds weights only .*load_from='):
        train([str(mini_config), '--work-dir', str(tmp_path / 'work'), '--resume', str(tmp_path / 'a.safetensors')])
