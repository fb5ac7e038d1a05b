"""Command lines and settings that make no sense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.faults.making import IN_ANY_CONFIG, Case, Maker
from benchmarks.faults.workplace import TOOLS


def without_val(content: dict[str, Any]) -> None:
    """Let the images of val be training images."""
    for record in content['images']:
        record['split'] = 'train' if record['split'] == 'val' else record['split']


class BadWords(Maker):
    """Options, settings and places for results."""

    def __iter__(self) -> Iterator[Case]:
        yield from self.config_values()
        yield from self.options()
        yield from self.outputs()

    def config_values(self) -> Iterator[Case]:
        """Settings of a config that nothing can be made of."""
        train = {
            'model.type': 'galr_mm.NoSuchModel', 'model.backbone.type': 'mmpretrain.Nothing', 'model.nothing': 3,
            'model.visual.embed_dim': 'wide', 'model.visual.dropout': 3, 'model.fusion.mode': 'nothing',
            'model.loss.type': 'galr_mm.NoLoss', 'model.loss.temperature': -1, 'model.local.drea.num_nodes': 0,
            'model.local.drea.num_classes': 2, 'model.text_encoder.word_dim': 0, 'model.text_encoder.dropout': 'a',
            'model.micro_batch': 0, 'model.backbone.variant': 'lite9', 'model.backbone.frozen_stages': 99,
            'model.backbone.out_indices': '(99,)', 'train_dataloader.batch_size': 0, 'train_dataloader.num_workers': -1,
            'train_dataloader.dataset.split': 'dev', 'train_dataloader.dataset.captions': 'some',
            'train_dataloader.dataset.type': 'galr_mm.NoDataset', 'train_dataloader.dataset.nothing': 3,
            'train_dataloader.dataset.pipeline.0.type': 'galr_mm.NoStep',
            'train_dataloader.dataset.data_root': '/none/',
            'train_dataloader.dataset.pipeline.1.scale': '(0,0)', 'train_dataloader.dataset.pipeline.2.views': '[x]',
            'train_dataloader.sampler.type': 'NoSampler', 'optim_wrapper.optimizer.type': 'NoOptimizer',
            'optim_wrapper.optimizer.lr': -1, 'optim_wrapper.type': 'NoWrapper', 'train_cfg.max_epochs': 'many',
            'train_cfg.type': 'NoLoop', 'param_scheduler.0.type': 'NoSchedule', 'val_evaluator.type': 'galr_mm.None',
            'val_evaluator.metrics.0.topk': '(0,)', 'default_hooks.checkpoint.type': 'NoHook', 'rerank': 'nothing',
            'rerank_cfg.mr.k': 0, 'modle.fusion': 3, 'train_cfgs.max_epochs': 3,
        }  # fmt: skip
        for key, value in train.items():
            names = (key.split('.')[-1], str(value).strip('(),[]'), self.place.config.name)
            extra = ['rerank=mr'] if key.startswith('rerank_cfg') else []
            tool = 'test' if key.startswith('rerank') else 'train'
            yield Case('wrong setting', tool, [*self.common(tool), '--cfg-options', *extra, f'{key}={value}'], names)
        for tool in (*IN_ANY_CONFIG, 'run_seeds'):
            yield self.with_options('setting without a value', tool, 'rerank', '--cfg-options', 'rerank')
            yield self.with_options('misspelt setting', tool, 'modle.fusion=3', 'modle')
            loader = 'train_dataloader' if tool in ('train', 'run_seeds') else 'test_dataloader'
            if tool not in ('verify_dataset', 'run_seeds'):  # one reads files alone, one says it above the last line
                yield self.with_options('wrong setting', tool, f'{loader}.dataset.type=galr_mm.No', 'galr_mm.No')

    def options(self) -> Iterator[Case]:
        """Command lines."""
        place, good = self.place, self.right()
        for tool in (tool for tool in TOOLS if tool != 'archive'):  # which has commands of its own
            yield Case('unknown option', tool, [*good[tool], '--nothing', 3], ('--nothing',))
            yield Case('too many words', tool, [*good[tool], '--', 'a', 'b', 'c'], ('a', 'b', 'c'))
            if good[tool] and tool not in ('collect_env', 'make_mini_dataset', 'make_results'):
                yield Case('too few words', tool, [], ('required',))
        values: dict[str, dict[str, list[object]]] = {
            'extract_proposals': {
                '--score-thr': ['high', 2, 'nan'], '--max-per-image': [0, 'x', 1.5], '--tile': [0, 100],
                '--merge-iou': [0, 3], '--batch-size': [0, -1], '--num-workers': [-1], '--device': ['nothing'],
                '--launcher': ['nothing', 'pytorch'],
            },
            'rerank': {
                '--method': ['nothing'], '--k': [0, -3, 'x'], '--decay': ['x', -1], '--reverse': ['x'],
                '--reverse-top': [-1], '--significance': ['x'], '--tail': ['x'], '--captions-per-image': [0, 7, 'x'],
                '--filler': ['x'], '--topk': [0, -1, 'x'], '--resamples': [0, -5], '--seed': ['x'],
                '--out': ['x.txt'], '--sweep': ['x.txt'], '--bank': ['/none.npz'], '--scale': [3],
            },
            'make_mini_dataset': {'--train': [0, -1, 'x'], '--val': [0], '--test': [0], '--seed': ['x', -1]},
            'convert_captions': {'--val-fraction': [0, 1, 'x', -1, 'nan'], '--images': ['/none']},
            'convert_detections': {'--score-thr': ['x', -1, 2, 'nan'], '--max-per-image': [0, 'x']},
            'make_selo_mosaics': {
                '--scenes': [0, 'x'], '--grid': [0, -1], '--tile': [0], '--sentences': [0], '--seed': ['x', -1],
                '--split': ['dev'], '--images': ['/none'], '--class-pattern': ['('],
            },
            'eval_selo': {
                '--scenes': ['/none'], '--scales': [0, 'x'], '--median': [2, -1], '--batch-size': [0], '--seed': ['x'],
                '--device': ['nothing'],
            },
            'word_vectors': {'--model': ['/none']},
            'build_vocabulary': {'--min-count': [0, 'x', 10**6]},
            'publish_model': {'--note': ['nothing']},
            'cache_features': {
                '--stage': [99, 'x', -1], '--views': ['rot45'], '--dtype': ['int8'], '--batch-size': [0, 'x'],
                '--num-workers': [-1], '--device': ['nothing'],
            },
            'browse_dataset': {'--split': ['dev'], '--num': [0, 'x'], '--seed': [-1, 'x']},
            'show_graph': {'--split': ['dev'], '--num': [0, 'x'], '--seed': [-1, 'x']},
            'train': {'--launcher': ['x', 'pytorch'], '--resume': ['/none.pth'], '--feature-cache': ['/none']},
            'test': {
                '--launcher': ['x', 'pytorch'], '--out': ['x.txt'], '--feature-cache': ['/none'],
            },
            'run_seeds': {
                '--seeds': ['x'], '--name': ['a/b', ''], '--rerank': ['nothing'], '--feature-cache': ['/none'],
            },
        }  # fmt: skip
        for tool, by_option in values.items():
            for option, wrong in by_option.items():
                for value in wrong:
                    words = list(good[tool])
                    if option == '--val-fraction':  # which is for lists without val
                        words[0] = self.changed('no_val.json', self.captions, without_val)
                    yield self.wrong_value(tool, words, option, value)
        conflicts: list[tuple[str, list[object], tuple[str, ...]]] = [
            ('rerank', [place.scores, '--captions-per-image', 5, '--positives', 'p.json'], ('--positives',)),
            ('rerank', [place.scores, '--method', 'mr', '--bank', place.scores], ('--bank',)),
            ('rerank', [place.scores, '--method', 'csls', '--decay', 3], ('decay',)),
            ('rerank', [place.scores, '--sweep', self.out / 's.png', '--k', 3], ('--sweep',)),
            ('rerank', [place.scores, '--sweep', self.out / 's.png', '--method', 'rr'], ('--sweep',)),
            ('rerank', [place.scores, '--method', 'qbnorm'], ('bank',)),
            ('run_seeds', [*good['run_seeds'], '--cfg-options', 'randomness.seed=3'], ('randomness',)),
            ('run_seeds', [place.config, '--seeds', 1, 1, '--name', 'x'], ('--seeds',)),
            ('test', [place.config, '--work-dir', self.out], ('CHECKPOINT',)),
            ('train', [*good['train'], '--amp'], ('--amp',)),
            ('build_vocabulary', [self.captions, '--out', self.captions], ('--out',)),
            ('convert_captions', [self.captions, '--out', self.captions, '--overwrite'], ('--out',)),
            (
                'convert_captions',
                [self.captions, '--out', self.captions.parent / 'vocabulary.json'],
                ('vocabulary.json',),
            ),
            ('convert_detections', [place.results, place.listing, '--out', place.listing], ('listing.json',)),
            ('make_results', [self.folder / 'nowhere.md'], ('nowhere.md',)),
            ('make_results', [self.write('page.md', b'<!-- table: x -->\n')], ('page.md', 'table')),
            ('make_results', [self.write('kind.md', b'<!-- table: x\na: b\n-->\n<!-- end -->\n')], ('table',)),
            ('make_results', [self.write('row.md', b'<!-- table: curves\na: b\n-->\n<!-- end -->\n')], ('table',)),
        ]
        for tool, words, named in conflicts:
            yield Case('options that exclude each other, or something is missing', tool, words, named)

    def outputs(self) -> Iterator[Case]:
        """Places where nothing can be written, and files that would be lost."""
        file = self.write('file', b'')
        inside = file / 'x'
        folder = self.folder / 'a_folder.json'
        folder.mkdir(exist_ok=True)
        good = self.right()
        flags = {
            'train': '--work-dir', 'test': '--work-dir', 'cache_features': '--out', 'browse_dataset': '--out-dir',
            'show_graph': '--out-dir', 'make_mini_dataset': '--out', 'run_seeds': '--work-dir',
        }  # fmt: skip
        suffixes = {'publish_model': '.safetensors', 'rerank': '.npz'}
        for tool in (
            'build_vocabulary',
            'convert_captions',
            'convert_detections',
            'extract_proposals',
            *suffixes,
            *flags,
        ):
            flag = flags.get(tool, '--out')
            words = [*good[tool]]
            if flag in words:
                del words[words.index(flag) : words.index(flag) + 2]
            target = (
                inside.with_suffix(suffixes.get(tool, '')) if tool in flags or tool in suffixes else inside / 'x.json'
            )
            yield Case('output inside a file', tool, [*words, flag, target], (str(file),))
            if tool not in flags:
                target = folder if tool not in suffixes else self.folder / f'a_folder{suffixes[tool]}'
                target.mkdir(exist_ok=True)
                yield Case('folder for an output', tool, [*words, flag, target], (target.name,))
        for flag in ('--out', '--show-dir'):
            target = inside / 'x.npz' if flag == '--out' else inside
            yield Case('output inside a file', 'test', [*good['test'], flag, target], (str(file),))
