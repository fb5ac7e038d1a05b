"""A training that was stopped anywhere ends as one that was not."""

import os
import random
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import Dataset

from galr_mm.engine.hooks import checkpoint as module

EPOCHS = 4
RECALLS = [3.0, 5.0, 4.0, 6.0]  # of the epochs


class Draws(Dataset):
    """Samples that are drawn anew each time."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index, np.random.rand(), random.random()], dtype=torch.float32))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, inputs, mode='loss'):
        out = self.layer(self.dropout(inputs))
        return dict(loss=out.square().mean()) if mode == 'loss' else [out]


class Recall(BaseMetric):
    """By the epoch; draws a number, as a loader of validation does."""

    def process(self, data_batch, data_samples):
        self.results.append(torch.rand(()).item())

    def compute_metrics(self, results):
        return dict(mR=RECALLS[Runner.current.epoch - 1])


class Stop(Hook):
    """An end at a given moment of an epoch."""

    def __init__(self, moment, epoch):
        self.epoch = epoch
        setattr(self, moment, self.stop)

    def stop(self, runner, **kwargs):
        if runner.epoch == self.epoch:
            raise KeyboardInterrupt


def train(work, resume=False, stop=None, **checkpoint):
    torch.manual_seed(0)
    sampler = dict(type='DefaultSampler', shuffle=True)
    loader = dict(batch_size=2, dataset=Draws(), sampler=sampler, collate_fn=dict(type='default_collate'))
    hook = dict(type='galr_mm.ResumableCheckpointHook', interval=1, max_keep_ckpts=1, save_best='mR', rule='greater')
    runner = Runner(
        Model(),
        work_dir=str(work),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        val_cfg=dict(),
        val_evaluator=[Recall()],
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        default_hooks=dict(checkpoint=hook | checkpoint),
        custom_hooks=[stop] if stop else [],
        randomness=dict(seed=1),
        resume=resume,
        experiment_name=f'{work.name}_{uuid.uuid4()}',  # random is seeded, and runs of one name share their hub
        log_level='WARNING',
    )
    Runner.current = runner
    runner.train()


def results(work):
    """Weights, and what training goes on with, by file name."""
    found = {}
    for path in work.glob('*.pth'):
        content = torch.load(path, weights_only=False)
        found[path.name] = {key: content.get(key) for key in ('state_dict', 'optimizer')}
    assert not list(work.glob('.*'))
    return found


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    work = tmp_path_factory.mktemp('undisturbed')
    train(work)
    found = results(work)
    assert set(found) == {'best_mR_epoch_4.pth', 'epoch_4.pth'}
    return found


@pytest.mark.parametrize(
    ('moment', 'epoch'),
    [
        *(('before_train_iter', epoch) for epoch in (1, 3)),  # epochs that are complete
        *(('before_val_epoch', epoch) for epoch in (1, 2, 3, 4)),
        *(('after_val_epoch', epoch) for epoch in (1, 2, 3, 4)),
    ],
)
def test_stopped_and_resumed(undisturbed, moment, epoch, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=Stop(moment, epoch))
    train(tmp_path, resume=True)
    found = results(tmp_path)
    assert set(found) == set(undisturbed)
    for name, content in undisturbed.items():
        torch.testing.assert_close(found[name], content, rtol=0, atol=0)


def test_without_it_mmengine_ends_elsewhere(undisturbed, tmp_path):
    """The test above can fail: dropout and draws start anew, and the epoch is not validated."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=Stop('before_val_epoch', 2), type='CheckpointHook')
    train(tmp_path, resume=True, type='CheckpointHook')
    weights = results(tmp_path)['epoch_4.pth']['state_dict']
    assert not torch.equal(weights['layer.weight'], undisturbed['epoch_4.pth']['state_dict']['layer.weight'])


@pytest.mark.parametrize('failing', range(1, 7))
def test_what_was_there_stays_until_the_next_is_whole(failing, undisturbed, tmp_path, monkeypatch):
    """A full disk at the n-th checkpoint: the one before can be resumed from."""
    put, count = module.AtomicLocalBackend.put, iter(range(1, 100))

    def fill(self, obj, filepath):
        if next(count) == failing:
            raise OSError(28, 'No space left on device', str(filepath))
        put(self, obj, filepath)

    monkeypatch.setattr(module.AtomicLocalBackend, 'put', fill)
    with pytest.raises(OSError, match=r'No space left on device.*\.pth'):
        train(tmp_path)
    whole = results(tmp_path)
    if failing > 1:
        assert (tmp_path / 'last_checkpoint').is_file()
        assert Path((tmp_path / 'last_checkpoint').read_text()).name in whole
    if failing > 2:
        assert any(name.startswith('best') for name in whole)
    train(tmp_path, resume=True)
    assert set(results(tmp_path)) == set(undisturbed)


def stop_before(operation, monkeypatch):
    """Let the n-th writing, noting or removing of a checkpoint not happen, nor anything after it; gives their count."""
    count = iter(range(1, 1000))

    def counted(real):
        def act(*args):
            if next(count) >= operation:
                raise KeyboardInterrupt
            return real(*args)

        return act

    backend = module.AtomicLocalBackend
    for owner, name in ((backend, 'put'), (backend, 'remove'), (module, 'write_text')):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return count


def test_stopped_at_each_change_of_the_folder(undisturbed, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        count = stop_before(1000, patch)
        train(tmp_path / 'counted')
    operations = next(count)
    assert operations > 5 * EPOCHS
    for operation in range(2, operations):  # before the first there is nothing to resume from
        work = tmp_path / f'{operation}'
        with monkeypatch.context() as patch:
            stop_before(operation, patch)
            with pytest.raises(KeyboardInterrupt):
                train(work)
        train(work, resume=True)
        found = results(work)
        assert set(found) == set(undisturbed), operation
        for name, content in undisturbed.items():
            torch.testing.assert_close(found[name], content, rtol=0, atol=0, msg=f'{name}, {operation}')


@pytest.mark.parametrize('copied', [True, False])
def test_what_was_not_replaced_stays(tmp_path, copied):
    """A later file under the name of a replaced one, as after a branch; moved to another folder that one is known."""
    work, best = tmp_path / 'work', tmp_path / 'work/best_mR_epoch_1.pth'
    with pytest.raises(KeyboardInterrupt):
        train(work, stop=Stop('before_train_iter', 1))
    kept = best.read_bytes(), best.stat()
    train(work, resume=True, max_keep_ckpts=-1)
    assert not best.exists()
    best.write_bytes(kept[0])
    if not copied:  # as a kill before its removal leaves it
        os.utime(best, ns=(kept[1].st_atime_ns, kept[1].st_mtime_ns))
    (work / 'last_checkpoint').write_text(str(work / 'epoch_2.pth'))
    work = work.rename(tmp_path / 'moved')
    (work / 'last_checkpoint').write_text(str(work / 'epoch_2.pth'))
    train(work, resume=True)
    assert (work / best.name).exists() == copied


def test_the_last_two(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=Stop('after_val_epoch', 2), max_keep_ckpts=2)
    train(tmp_path, resume=True, max_keep_ckpts=2)
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['best_mR_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth']
