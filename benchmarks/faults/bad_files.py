"""Files that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.faults.making import IN_ANY_CONFIG, Case, Maker


class BadFiles(Maker):
    """At each place where a file is read, each kind of file that is not what is expected."""

    def __iter__(self) -> Iterator[Case]:
        yield from self.json_files()
        yield from self.json_values()
        yield from self.weight_files()
        yield from self.arrays()
        yield from self.config_files()

    def json_files(self) -> Iterator[Case]:
        """At each place where a json is read."""
        place, out = self.place, self.out
        for kind, path in self.broken_json('captions.json', self.captions):
            yield Case(kind, 'build_vocabulary', [path, '--out', out / 'v.json'], (path.name,))
            if kind != 'folder for a file':
                yield Case(kind, 'make_selo_mosaics', [path, '--out', out / 'selo'], (path.name,))
                yield Case(kind, 'convert_captions', [path, '--out', out / 'd.json'], (path.name,))
        for kind, path in self.broken_json('results.json', place.results, of_lists=True):
            yield Case(kind, 'convert_detections', [path, place.listing, '--out', out / 'p.json'], (path.name,))
        for kind, path in self.broken_json('listing.json', place.listing):
            yield Case(kind, 'convert_detections', [place.results, path, '--out', out / 'p.json'], (path.name,))
        for kind, path in self.broken_json('positives.json', self.write('p.json', b'[[0, 1, 2, 3, 4]]')):
            yield Case(kind, 'rerank', [place.scores, '--positives', path], (path.name,))
        for kind, path in self.broken_json('images.json', self.captions):
            if kind != 'folder for a file':
                words = [place.detector, place.weights, path, '--out', out / 'p.json', '--num-workers', 0]
                yield Case(kind, 'extract_proposals', words, (path.name,))
        for key, good in (('ann_file', self.captions), ('proposal_file', self.proposals)):
            for number, (kind, path) in enumerate(self.broken_json(f'{key}.json', good)):
                tool = IN_ANY_CONFIG[number % len(IN_ANY_CONFIG)]  # each kind at one of them
                loader = 'train_dataloader' if tool == 'train' else 'test_dataloader'
                yield self.with_options(kind, tool, f'{loader}.dataset.{key}={path}', path.name)
        for kind, path in self.broken_json('annotations.json', self.annotations):
            words = [*self.right()['eval_selo']]
            words[words.index('--annotations') + 1] = path
            yield Case(kind, 'eval_selo', words, (path.name,))
        vocabulary = place.data / 'vocabulary.json'
        for number, (kind, path) in enumerate(self.broken_json('vocabulary.json', vocabulary)):
            tool = ('train', 'get_flops', 'cache_features', 'verify_dataset')[number % 4]
            yield self.with_options(kind, tool, f'model.text_encoder.vocabulary={path}', path.name)
            yield Case(kind, 'word_vectors', [path, '--out', out / 'vectors.txt'], (path.name,))
        for kind, path in self.broken_json('meta.json', self.cache / 'meta.json'):
            folder = self.folder / f'cache_{path.stem}'
            folder.mkdir(exist_ok=True)
            if path.is_file():
                (folder / 'meta.json').write_bytes(path.read_bytes())
            yield Case(kind, 'train', [*self.common('train'), '--feature-cache', folder], (folder.name,))

    def json_values(self) -> Iterator[Case]:
        """Wrong values in a json of the right kind."""
        out, kind = self.out, 'wrong value in a json'
        records: dict[str, Any] = {
            'filename': 3, 'split': 'dev', 'sentences': 'a river', 'sentence': [3], 'raw': [{'raw': 3}], 'none': [],
        }  # fmt: skip
        for field, value in records.items():
            key = field if field in ('filename', 'split') else 'sentences'
            path = self.changed(f'{field}.json', self.captions, _set(lambda c: c['images'][-1], key, value))
            yield (
                Case(kind, 'build_vocabulary', [path, '--out', out / 'v.json'], (path.name,))
                if field != 'none'
                else (Case(kind, 'convert_captions', [path, '--out', out / 'd.json'], (path.name,)))
            )
        fields: dict[str, list[Any]] = {
            'bbox': [[1, 2], 'box', None, [1, 2, 3, 'x']],
            'score': ['high', None, 95.0, [0.5]],
            'image_id': [-1, 'x', [1]],
            'category_id': [99, None, [1]],
        }
        for field, values in fields.items():
            for number, value in enumerate(values):
                name = f'{field}_{number}.json'
                path = self.changed(name, self.place.results, _set(lambda c: c[7], field, value))
                words = [path, self.place.listing, '--out', out / 'p.json']
                yield Case(kind, 'convert_detections', words, (path.name,))
        sizes: dict[str, Any] = {'width': 0, 'height': 'tall', 'id': [1], 'file_name': None}
        for field, value in sizes.items():
            name = f'listing_{field}.json'
            path = self.changed(name, self.place.listing, _set(lambda c: c['images'][3], field, value))
            words = [self.place.results, path, '--out', out / 'p.json']
            yield Case(kind, 'convert_detections', words, (path.name, self.place.results.name))
        for number, value in enumerate(([[0]], [[-1]] * 60, [[300]] * 60, [['a']] * 60, [3] * 60)):
            path = self.write(f'positives_{number}.json', json.dumps(value).encode())
            yield Case(kind, 'rerank', [self.place.scores, '--positives', path], (path.name,))

    def weight_files(self) -> Iterator[Case]:
        """At each place where weights are read."""
        place = self.place
        out = self.folder / 'released.pth'
        for kind, path in self.broken('weights.pth', self.checkpoint):
            yield Case(kind, 'test', [place.config, path, '--work-dir', self.out], (path.name,))
            yield Case(kind, 'train', [*self.common('train'), '--resume', path], (path.name,))
            yield self.with_options(kind, 'train', f'load_from={path}', path.name)
            yield Case(kind, 'publish_model', [path, '--out', self.out / 'm.safetensors'], (path.name,))
            yield Case(kind, 'convert_released_galr', [path, out], (path.name,))
            words = [place.detector, path, place.data / 'images', '--out', self.out / 'p.json']
            yield Case(kind, 'extract_proposals', words, (path.name,))
            words = ['--cfg-options', 'model.backbone.init_cfg.type=Pretrained']
            words += [f'model.backbone.init_cfg.checkpoint={path}']
            yield Case(kind, 'cache_features', [*self.common('cache_features'), *words], (path.name,))
        others = {'a list': [1, 2], 'a number': 3, 'text by name': {'state_dict': {'a': 'text'}}, 'nothing': {}}
        others['other weights'] = {'state_dict': {'layer.weight': torch.zeros(3, 3)}, 'meta': {}}
        for kind, content in others.items():
            path = self.folder / f'{kind.replace(" ", "_")}.pth'
            torch.save(content, path)
            kind = f'weights file with {kind}'
            yield Case(kind, 'test', [place.config, path, '--work-dir', self.out], (path.name,))
            yield Case(kind, 'train', [*self.common('train'), '--resume', path], (path.name,))
            yield Case(kind, 'convert_released_galr', [path, out], (path.name,))
            words = [place.detector, path, place.data / 'images', '--out', self.out / 'p.json', '--num-workers', 0]
            yield Case(kind, 'extract_proposals', words, (path.name,))
            if 'other' not in kind:
                yield Case(kind, 'publish_model', [path, '--out', self.out / 'm.safetensors'], (path.name,))

    def arrays(self) -> Iterator[Case]:
        """Matrices to re-rank."""
        for suffix in ('.npy', '.npz', '.pt'):
            good = self.folder / f'good{suffix}'
            matrix = np.random.default_rng(0).normal(size=(6, 30)).astype(np.float32)
            if suffix == '.pt':
                torch.save(torch.from_numpy(matrix), good)
            else:
                np.save(good, matrix) if suffix == '.npy' else np.savez(good, i2t=matrix)
            for kind, path in self.broken(f'matrix{suffix}', good):
                yield Case(kind, 'rerank', [path], (path.name,))
        values = {
            'NaN': np.full((6, 30), np.nan), 'infinity': np.full((6, 30), np.inf), 'text': np.full((6, 30), 'x'),
            'one dimension': np.zeros(30), 'three dimensions': np.zeros((2, 3, 5)), 'no rows': np.zeros((0, 30)),
            'complex': np.zeros((6, 30), complex), 'objects': np.array([None] * 30), 'columns': np.zeros((6, 31)),
        }  # fmt: skip
        for kind, array in values.items():
            path = self.folder / f'{kind.replace(" ", "_")}.npy'
            np.save(path, array, allow_pickle=True)
            yield Case(f'matrix of {kind}', 'rerank', [path], (path.name,))
            if kind not in ('columns',):
                yield Case(f'matrix of {kind}', 'rerank', [self.place.scores, '--t2i', path], (path.name,))
        path = self.write('matrix.csv', b'1,2,3\n')
        yield Case('another file type', 'rerank', [path], (path.name,))

    def config_files(self) -> Iterator[Case]:
        """Configs that cannot be read."""
        texts = {
            'syntax error': 'model = dict(', 'error in a config': 'x = 1 / 0', 'base missing': "_base_ = 'nowhere.py'",
            'name missing': 'model = dict(type=nothing)', 'config without settings': 'x = 1',
            'module missing': "custom_imports = dict(imports=['no_such_module'])",
            'wrong base': '_base_ = 3', 'base of itself': "_base_ = './base_of_itself.py'",
        }  # fmt: skip
        paths = {kind: self.write(f'{kind.replace(" ", "_")}.py', text.encode()) for kind, text in texts.items()}
        for tool in (*IN_ANY_CONFIG, 'run_seeds', 'extract_proposals'):
            for kind, path in paths.items():
                yield Case(kind, tool, self.common(tool, path), (path.name, 'no_such_module', 'nowhere.py'))
            for kind, path in self.broken('config.py', self.place.config):
                if kind != 'truncated':  # may be a config
                    yield Case(kind, tool, self.common(tool, path), (path.name,))


def _set(pick: Callable[[Any], dict[str, Any]], field: str, value: Any) -> Callable[[Any], None]:
    """What sets a field of an entry that is picked from a json."""
    return lambda content: pick(content).update({field: value})
