"""ToolRunner: what it says before the first step and when it resumes, and what it keeps from the terminal."""

import copy
import functools
import re
import shutil
import zipfile
from pathlib import Path

import mmengine.runner.runner
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from galr_mm.cli.train import main as train
from galr_mm.engine.checks import TrainingError, check_evaluation, check_proposals, innermost
from galr_mm.engine.resuming import latest_checkpoint
from galr_mm.engine.runner import ToolRunner
from galr_mm.registry import DATASETS, MODELS
from galr_mm.utils.io import file_lock


@MODELS.register_module(name='LineForRunner')
class Line(BaseModel):
    def __init__(self, width=1):
        super().__init__()
        self.layer = nn.Linear(1, width)

    def forward(self, x, mode='loss'):
        return dict(loss=(self.layer(x) - 1).square().mean())


@DATASETS.register_module(name='DotsForRunner')
class Dots(torch.utils.data.Dataset):
    metainfo = dict(split='train')

    def __init__(self, count=8):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return dict(x=np.float32([index]))


BASE = dict(
    default_scope='mmengine',
    model=dict(type='galr_mm.LineForRunner'),
    train_dataloader=dict(
        batch_size=2,
        num_workers=0,
        drop_last=True,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='galr_mm.DotsForRunner'),
    ),
    train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
    param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2)],
    default_hooks=dict(logger=dict(type='LoggerHook', interval=100)),
    randomness=dict(seed=0),
)


COLLECTED = functools.cache(mmengine.runner.runner.collect_env)  # asks compilers, which takes seconds


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """A runner of BASE with changes by dotted name; each has a name of its own, so a logger of its own."""
    monkeypatch.setattr(mmengine.runner.runner, 'collect_env', COLLECTED)
    count = 0

    def build(work='work', **changes):
        nonlocal count
        count += 1
        cfg = Config(copy.deepcopy(BASE))
        cfg.merge_from_dict(dict(work_dir=str(tmp_path / work), experiment_name=f'{tmp_path.name}{count}', **changes))
        return ToolRunner.from_cfg(cfg)

    return build


def options(**changes):
    return {name.replace('__', '.'): value for name, value in changes.items()}


# Before the first step


def test_a_run_of_sensible_settings_says_little(runner, capsys):
    runner().train()
    out = capsys.readouterr().out
    assert 'WARNING' not in out
    assert 'Config:' not in out
    assert 'Hooks will be executed' not in out
    assert len(out.splitlines()) < 20
    assert re.search(r'a step takes about [\d.]+ s: 6 more', out)
    assert re.search(r' ([\d,]+) of \1 weights are trained\n', out)
    (log,) = re.findall(r'all messages: (\S+)', out)
    text = Path(log).read_text()
    assert 'Config:\n' in text
    assert 'Hooks will be executed' in text
    assert 'System environment' in text


def test_debug_shows_all(runner, capsys):
    runner(log_level='DEBUG')
    assert 'Config:\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(train_dataloader__batch_size=9), 'warning: 8 training samples are fewer .* an epoch is one step of 8'),
        (
            dict(param_scheduler__0__end=9),
            r'warning: the warm-up takes 9 steps and the training 8: .* param_scheduler.0.end=1\)',
        ),
        (dict(param_scheduler__0__end=3, param_scheduler__0__by_epoch=True), 'warning: the warm-up takes 3 epochs'),
        (dict(param_scheduler__0__end=8), ''),
        (dict(param_scheduler__0__end=99, param_scheduler__0__end_factor=0.1), ''),
    ],
)
def test_warnings_with_the_setting_to_change(runner, changes, message):
    run, said = runner(**options(**changes)), []
    run.logger.warning = lambda text, *_: said.append(f'warning: {text}')
    if 'batch_size' in str(changes):
        run.cfg.train_dataloader.drop_last = run._train_dataloader['drop_last'] = False
    run.build_train_loop(run._train_loop)
    assert len(said) == bool(message)
    assert re.search(message, ''.join(said))


def test_a_batch_that_no_step_can_fill(runner):
    run = runner(**options(train_dataloader__batch_size=9))
    with pytest.raises(TrainingError, match=r'8 training samples .*batch_size=9.*drop_last=True.*batch_size=2'):
        run.train()


class Loop:
    """What a loop has."""

    def __init__(self, size, evaluator, **options):
        self.dataloader = torch.utils.data.DataLoader(Dots(size), **options)
        self.evaluator = evaluator


def test_an_evaluation_of_all_images(runner):
    from galr_mm.evaluation import RetrievalEvaluator

    ours = RetrievalEvaluator([dict(type='galr_mm.RecallAtK')])
    with pytest.raises(TrainingError, match='val_dataloader.drop_last=True would leave out 2 of 8 images'):
        check_evaluation(Loop(8, ours, batch_size=3, drop_last=True), 'val_dataloader')
    check_evaluation(Loop(8, ours, batch_size=4, drop_last=True), 'val_dataloader')
    check_evaluation(Loop(8, ours, batch_size=3), 'val_dataloader')
    check_evaluation(Loop(8, None, batch_size=3, drop_last=True), 'val_dataloader')


def test_classes_of_the_proposals():
    model, data = nn.Module(), Dots()
    model.local = nn.Module()
    model.local.drea = nn.Module()
    model.local.drea.num_classes = 2
    data.metainfo = dict(split='val', proposal_classes=('a', 'b', 'c'))
    both = torch.utils.data.ConcatDataset([Dots(), data])
    assert innermost(both)[1] is data
    with pytest.raises(TrainingError, match=r"'val' have 3 classes \(a, b, c\), but model.local.drea.num_classes is 2"):
        list(check_proposals(both, model))
    model.local.drea.num_classes = 4
    assert len(list(check_proposals(both, model))) == 1
    model.local.drea.num_classes = 3
    assert not list(check_proposals(both, model))
    assert not list(check_proposals(both, nn.Linear(1, 1)))


# Resuming


@pytest.fixture
def resumed(runner, capsys):
    """What a training says that goes on from two epochs of BASE with changes."""
    runner().train()

    def go(work='work', **changes):
        capsys.readouterr()
        run = runner(work, **dict(dict(resume=True), **changes))
        run.train()
        return run, capsys.readouterr().out

    return go


def test_the_same_settings(resumed):
    run, out = resumed()
    assert 'changed' not in out
    assert 'nothing is left to do' in out
    assert run.iter == 8


def test_beyond_the_end_nothing_is_validated(resumed):
    run, out = resumed(train_cfg__max_epochs=1)
    assert 'nothing is left to do' in out
    assert 'Epoch(val)' not in out


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(train_cfg__max_epochs=3), ['train_cfg.max_epochs: 2 -> 3', 'keeps the schedule of the checkpoint']),
        (
            dict(train_cfg__max_epochs=3, train_dataloader__batch_size=4),
            ['changed since the checkpoint: .*train_dataloader.batch_size: 2 -> 4'],
        ),
        (dict(train_cfg__max_epochs=3, optim_wrapper__optimizer__lr=0.5), ['without effect: .*lr: 0.01 -> 0.5']),
        (dict(param_scheduler__0__end=4), ['without effect: param_scheduler.0.end: 2 -> 4']),
    ],
)
def test_what_changed_is_said(resumed, changes, said):
    run, out = resumed(**options(**changes))
    for message in said:
        assert re.search(message, out)
    assert run.epoch == run.train_loop.max_epochs
    assert run.optim_wrapper.get_lr()['lr'] == [pytest.approx(0.01)]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(model__width=2), r'epoch_2.pth is of another model: [\s\S]*layer.weight'),
        (dict(optim_wrapper__optimizer__type='AdamW'), "optimizer.type: 'SGD' -> 'AdamW'"),
        (dict(param_scheduler=[]), 'of another optimizer or schedule'),
    ],
)
def test_what_cannot_be_right_is_refused(resumed, changes, message):
    with pytest.raises(TrainingError, match=message):
        resumed(**options(**changes))


def test_weights_alone_are_no_training(runner, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=Line().state_dict(), meta={}), path)
    with pytest.raises(TrainingError, match='load_from=FILE'):
        runner(resume=True, load_from=str(path)).train()


def test_nothing_to_resume(runner, capsys):
    run = runner(resume=True)
    run.train()
    assert run.iter == 8
    assert 'nothing to resume in' in capsys.readouterr().out


def test_nothing_to_resume_starts_from_given_weights(runner, tmp_path, capsys):
    """And once there is a checkpoint, that one is resumed."""
    path, model = tmp_path / 'weights.pth', Line()
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    run = runner(resume='auto', load_from=str(path))
    run.load_or_resume()
    assert torch.equal(run.model.layer.weight, model.layer.weight)
    assert f'the training starts from the weights of {path}' in capsys.readouterr().out
    run.train()
    assert run.iter == 8
    again = runner(resume='auto', load_from=str(path), **options(train_cfg__max_epochs=3))
    again.load_or_resume()
    assert again.iter == 8
    assert torch.equal(again.model.layer.weight, run.model.layer.weight)


def test_weights_that_fit_nothing_are_no_start(runner, tmp_path):
    torch.save(dict(state_dict={'foo.weight': torch.zeros(3)}), tmp_path / 'foreign.pth')
    with pytest.raises(TrainingError, match='foreign.pth holds no weight of this model: foo.weight there'):
        runner(load_from=str(tmp_path / 'foreign.pth'), train_cfg=dict(max_epochs=1)).train()


def test_weights_that_fit_in_part_are_said(runner, tmp_path, capsys):
    start = runner(work='first', train_cfg=dict(max_epochs=1))
    weights = start.model.state_dict()
    name = next(name for name, parameter in start.model.named_parameters() if parameter.requires_grad)
    del weights[name]
    torch.save(dict(state_dict=weights | {'foo.weight': torch.zeros(3)}), tmp_path / 'a.pth')
    built = runner(load_from=str(tmp_path / 'a.pth'), train_cfg=dict(max_epochs=1))
    built.load_or_resume()
    said = capsys.readouterr().out + capsys.readouterr().err
    assert re.search(r'a\.pth: \d+ weights are taken, 1 of the model keep what they have', said)
    assert '1 of the file are not in the model, or of another shape (foo.weight)' in said


def test_a_work_dir_that_was_moved(resumed, tmp_path):
    """The old place is left alone, though the notes inside name it."""
    shutil.copytree(tmp_path / 'work', tmp_path / 'moved')
    before = sorted((tmp_path / 'work').rglob('*'))
    (tmp_path / 'work/epoch_2.pth').write_bytes(b'')
    run, _ = resumed('moved', **options(train_cfg__max_epochs=3))
    assert run.epoch == 3
    assert sorted((tmp_path / 'work').rglob('*')) == before


@pytest.mark.parametrize('left', [None, b'', b'PK half of it'], ids=['removed', 'empty', 'part'])
def test_stopped_while_a_checkpoint_was_written(resumed, tmp_path, left):
    last = tmp_path / 'work/epoch_2.pth'
    last.unlink()
    if left is not None:
        last.write_bytes(left)
    run, out = resumed()
    assert re.search('epoch_2.pth, which .*last_checkpoint names, is not whole; resuming from .*epoch_1.pth', out)
    assert run.epoch == 2
    assert zipfile.is_zipfile(last)


def test_no_whole_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / 'epoch_1.pth').touch()
    with pytest.raises(TrainingError, match='names nothing, which is not a whole checkpoint .epoch_1.pth in'):
        latest_checkpoint(tmp_path)
    (tmp_path / 'last_checkpoint').write_text('/old/epoch_7.pth')
    with pytest.raises(TrainingError, match='names /old/epoch_7.pth'):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize('moved', [True, False])
@pytest.mark.parametrize('same_name', [True, False])
def test_files_of_another_training_are_not_deleted(resumed, tmp_path, moved, same_name):
    """CheckpointHook would remove its best one for a better one, and epochs that are here for later ones."""
    best = tmp_path / 'work/best_mR_epoch_1.pth'
    best.touch()
    path = tmp_path / 'work/epoch_2.pth'
    content = torch.load(path, weights_only=False)
    content['message_hub']['runtime_info'] |= dict(best_ckpt=str(best), best_score=50.0, keep_ckpt_ids=[1, 2])
    content['message_hub']['resumed_keys'] |= dict(best_ckpt=True, best_score=True, keep_ckpt_ids=True)
    torch.save(content, path)
    other = tmp_path / 'other'
    other.mkdir()
    if same_name:
        (other / best.name).touch()
    if moved:
        path = path.rename(other / path.name)
    run, out = resumed('other', load_from=str(path), **options(train_cfg__max_epochs=3))
    info = run.message_hub.runtime_info
    assert ('keep_ckpt_ids' in info) == moved
    if moved and same_name:
        assert info['best_ckpt'] == str(other / best.name)
        assert info['best_score'] == 50
    else:
        assert not {'best_ckpt', 'best_score'} & info.keys()
        assert 'comes from another folder; its best checkpoint (best_mR_epoch_1.pth, 50.0) stays there' in out


def test_a_work_dir_in_use(tmp_path, runner):
    config = tmp_path / 'c.py'
    config.write_text(f'{Config(BASE).pretty_text}')
    work = tmp_path / 'work'
    with file_lock(work / 'training'), pytest.raises(SystemExit, match='another training is running in .*work;'):
        train([str(config), '--work-dir', str(work)])
    assert list(work.iterdir()) == []
    train([str(config), '--work-dir', str(work)])
    assert (work / 'epoch_2.pth').is_file()
    assert not (work / 'training.lock').exists()


def test_errors_of_settings_end_a_tool_with_one_line(tmp_path, runner):
    config = tmp_path / 'c.py'
    config.write_text(f'{Config(BASE).pretty_text}')
    with pytest.raises(SystemExit, match='fewer than one batch'):
        train([str(config), '--work-dir', str(tmp_path / 'w'), '--cfg-options', 'train_dataloader.batch_size=9'])
