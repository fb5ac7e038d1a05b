"""Small data, small models, and tools that run in forks of this process, which has imported what they need."""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mmdet.models  # noqa: F401
import mmpretrain.models  # noqa: F401
import numpy as np
import torch
from mmengine.config import Config
from yapf.yapflib import yapf_api

import galr_mm.cli
from galr_mm.registry import MODELS


def memoized(function: Callable[..., Any]) -> Callable[..., Any]:
    """Remember what a function gave for its first argument; the others never change."""
    known: dict[Any, Any] = {}

    def call(first: Any, *args: Any, **kwargs: Any) -> Any:
        if first not in known:
            known[first] = function(first, *args, **kwargs)
        return known[first]

    return call


ROOT = Path(__file__).resolve().parents[2]
TOOLS: dict[str, Callable[[Sequence[str]], None]] = {
    name: module.main
    for _, name, _ in pkgutil.iter_modules(galr_mm.cli.__path__)
    if hasattr(module := importlib.import_module(f'galr_mm.cli.{name}'), 'main')
}
# mmengine lays out the whole config as text for each checkpoint, most of the time of a training this small
yapf_api.FormatCode = memoized(yapf_api.FormatCode)
LIMIT = 300  # seconds that a tool may take
SIZES = dict(train=12, val=5, test=7)

RETRIEVER = """
_base_ = [
    '{root}/configs/_base_/datasets/image_text_224px.py',
    '{root}/configs/_base_/models/galr_resnet18.py',
    '{root}/configs/_base_/schedules/adamw_cosine.py',
    '{root}/configs/_base_/default_runtime.py',
]
folder = '{data}/'
load = [dict(type='galr_mm.LoadImageWithProposals'), dict(type='mmengine.Resize', scale=(32, 32))]
pack = dict(type='galr_mm.PackRetrievalInputs')
views = ['identity', 'rot90', 'hflip', 'transverse']
drawn = [*load, dict(type='galr_mm.RandomD4', views=views), pack]
loader = dict(batch_size=20, num_workers=0, persistent_workers=False)
data = dict(data_root=folder, ann_file='dataset_mini.json')
train_dataloader = dict(
    dataset=dict(pipeline=drawn, proposal_file='instances_train.json', captions='each', **data), **loader)
val_dataloader = dict(dataset=dict(pipeline=[*load, pack], proposal_file='instances_val.json', **data), **loader)
test_dataloader = dict(dataset=dict(pipeline=[*load, pack], proposal_file='instances_test.json', **data), **loader)
model = dict(
    backbone=dict(_delete_=True, type='galr_mm.EfficientNetLite', variant='lite0', frozen_stages=2, out_indices=(2, 3)),
    visual=dict(_delete_=True, type='galr_mm.GlobalPool', hidden_dim=32, dropout=0.1, embed_dim=32),
    local=dict(drea=dict(num_classes=6)),
    fusion=dict(_delete_=True, type='galr_mm.MIDF', mode='sum'),
    text_encoder=dict(vocabulary=folder + 'vocabulary.json', hidden_dim=32, word_dim=16, embed_dim=32),
)
default_hooks = dict(logger=dict(interval=1))
train_cfg = dict(max_epochs=3)
"""

DETECTOR = """
_base_ = '{root}/configs/detection/rtmdet-tiny_mini.py'
size = (64, 64)
resized = dict(type='mmdet.Resize', scale=size, keep_ratio=True)
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
pipeline = [dict(type='LoadImageFromFile'), resized, dict(type='mmdet.PackDetInputs', meta_keys=meta_keys)]
test_dataloader = dict(dataset=dict(pipeline=pipeline))
"""


class Done(NamedTuple):
    """What a tool did: exit code (negative: the signal that ended it), seconds, and what it wrote to the terminal."""

    code: int
    seconds: float
    text: str

    @property
    def last_line(self) -> str:
        """Of what was written, blank lines left out."""
        return ([line for line in self.text.splitlines() if line.strip()] or [''])[-1]


def run(
    tool: str,
    words: Sequence[object],
    log: Path,
    kill_after: float | None = None,
    kill_when: Callable[[], bool] | None = None,
    first: Callable[[], Any] | None = None,
) -> Done:
    """Run a tool of galr_mm/cli in a fork, as ``python tools/TOOL.py WORDS`` would.

    Args:
        tool: name of the module.
        words: of the command line.
        log: takes standard output and standard error.
        kill_after: SIGKILL to the tool and its children after so many seconds.
        kill_when: the same as soon as this holds.
        first: called in the fork before the tool, to change what the process may do.
    """
    threads = len(os.listdir('/proc/self/task'))
    if threads > 1:
        raise RuntimeError(f'{threads} threads run here; a fork would lose all but one')
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(tool, [*map(str, words)], log, first)
    end = os.pidfd_open(child)
    limit = started + (LIMIT if kill_after is None else kill_after)
    while not select.select([end], [], [], max(0, limit - time.monotonic()) if kill_when is None else 0.01)[0]:
        if time.monotonic() >= limit or (kill_when is not None and kill_when()):
            signal.pidfd_send_signal(end, signal.SIGKILL)
            break
    os.close(end)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGKILL and kill_after is None and kill_when is None:
        raise TimeoutError(f'{tool} {" ".join(map(str, words))} took more than {LIMIT} s; see {log}')
    return Done(code, time.monotonic() - started, log.read_text(encoding='utf-8', errors='replace'))


def _become(tool: str, words: list[str], log: Path, first: Callable[[], Any] | None) -> None:
    """Be the process of a tool, to its end."""
    code: Any = 1
    try:
        os.setsid()
        with log.open('w') as file, open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        np.random.seed()
        if first is not None:
            first()
        TOOLS[tool](words)
        code = 0
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code) & 0xFF)


class Workplace:
    """A folder with the mini data set, configs and an untrained detector.

    Args:
        folder: to fill.

    Attributes:
        config: a small GaLR on the last stages of a backbone whose first are frozen.
        detector, weights: config and weights of a small RTMDet.
        captions, results, listing: a long caption file and detections of some images, as converters read them.
        scores: a similarity matrix of 60 images and 300 captions.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / 'data'
        counts = [f'--{split}={count}' for split, count in SIZES.items()]
        self.must('make_mini_dataset', '--out', self.data, *counts)
        self.config = folder / 'small.py'
        self.config.write_text(RETRIEVER.format(root=ROOT, data=self.data))
        self.detector, self.weights = folder / 'detector.py', folder / 'detector.pth'
        self.detector.write_text(DETECTOR.format(root=ROOT))
        self.forked(self._write_weights)
        self.captions, self.results, self.listing = (folder / f'{name}.json' for name in ('long', 'results', 'listing'))
        self._write_long_lists()
        self.scores = folder / 'scores.npy'
        np.save(self.scores, np.random.default_rng(0).normal(size=(60, 300)).astype(np.float32))
        gc.freeze()  # collections of a fork leave these pages shared

    def run(self, tool: str, *words: object, **options: Any) -> Done:
        """Run a tool; its log is in the folder."""
        return run(tool, words, self.folder / f'{tool}.log', **options)

    def must(self, tool: str, *words: object, **options: Any) -> Done:
        """Run a tool that must not fail."""
        done = self.run(tool, *words, **options)
        if done.code:
            raise RuntimeError(f'{tool} ended with {done.code}:\n{done.text[-3000:]}')
        return done

    def forked(self, work: Callable[[], None]) -> None:
        """Do something in a fork, so that this process starts no thread."""
        child = os.fork()
        if not child:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError(f'{work.__name__} failed')

    def _write_weights(self) -> None:
        """Weights of an untrained detector whose scores differ from object to object."""
        torch.manual_seed(0)
        cfg = Config.fromfile(self.detector)
        model = MODELS.build(cfg.model)
        model.init_weights()
        for layer in model.bbox_head.rtm_cls:
            torch.nn.init.normal_(layer.weight, std=0.1)
            torch.nn.init.zeros_(layer.bias)
        for layer in model.bbox_head.rtm_reg:
            torch.nn.init.constant_(layer.bias, 2.0)  # boxes of four strides
        meta = {'dataset_meta': {'classes': cfg.metainfo.classes}}
        torch.save({'state_dict': model.state_dict(), 'meta': meta}, self.weights)

    def _write_long_lists(self, images: int = 2000, detected: int = 500) -> None:
        """Captions and detections of so many images that do not exist."""
        rng = np.random.default_rng(0)
        words = np.array([f'word{number}' for number in range(3000)])
        splits = ['train'] * 8 + ['val', 'test']
        names = [f'image_{number}.jpg' for number in range(images)]
        records = [
            dict(
                filename=name,
                split=splits[number % 10],
                sentences=[
                    dict(raw=' '.join(words[rng.integers(0, len(words), 12)]), sentid=number * 5 + i) for i in range(5)
                ],
            )
            for number, name in enumerate(names)
        ]
        self.captions.write_text(json.dumps(dict(images=records)))
        listed = [dict(id=n, file_name=name, width=256, height=256) for n, name in enumerate(names[:detected])]
        categories = [dict(id=1, name='ship'), dict(id=2, name='house')]
        self.listing.write_text(json.dumps(dict(images=listed, categories=categories)))
        boxes = rng.uniform([0, 0, 5, 5], [200, 200, 50, 50], (detected * 10, 4)).round(2).tolist()
        found = [
            dict(image_id=n // 10, category_id=n % 2 + 1, bbox=box, score=round(float(score), 4))
            for n, (box, score) in enumerate(zip(boxes, rng.uniform(0.1, 1, len(boxes)), strict=True))
        ]
        self.results.write_text(json.dumps(found))
