"""What bad inputs are made with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.faults.scenarios import Scenarios
from benchmarks.faults.workplace import TOOLS

HTML = '<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n'
LFS = 'version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 123456\n'
IN_ANY_CONFIG = ('train', 'test', 'verify_dataset', 'cache_features', 'get_flops', 'browse_dataset', 'show_graph')


class Case(NamedTuple):
    """A bad input.

    Args:
        kind: what is wrong with it.
        tool: name of the module.
        words: of the command line.
        names: the last line holds one of these: the file or the option.
    """

    kind: str
    tool: str
    words: list[object]
    names: tuple[str, ...]


class Maker:
    """Makes bad files, and command lines that are right.

    Args:
        scenarios: give what is right.
        folder: for the bad files.
    """

    def __init__(self, scenarios: Scenarios, folder: Path) -> None:
        self.place, self.folder = scenarios.place, folder
        self.checkpoint = scenarios.checkpoint()
        scenarios.undisturbed('feature cache')
        self.cache = scenarios.whole('feature cache')
        self.out = folder / 'out'
        folder.mkdir(parents=True, exist_ok=True)
        self.captions = self.place.data / 'dataset_mini.json'
        self.proposals = self.place.data / 'instances_test.json'
        case = dict(jpg_name='test_0000.jpg', caption='a ship', points=[[[0, 0], [9, 0], [9, 9]]])
        self.annotations = self.write('annotations.json', json.dumps([case]).encode())

    def broken(self, name: str, good: Path) -> Iterator[tuple[str, Path]]:
        """Kinds of files in place of a good one, whatever is in it."""
        content = good.read_bytes()
        yield 'missing file', self.folder / f'nowhere_{name}'
        folder = self.folder / f'folder_{name}'
        folder.mkdir(exist_ok=True)
        yield 'folder for a file', folder
        kinds = {
            'empty': b'',
            'truncated': content[: len(content) // 2],
            'web page': HTML.encode(),
            'git-lfs pointer': LFS.encode(),
            'random bytes': np.random.default_rng(0).bytes(500),
        }
        for kind, data in kinds.items():
            yield kind, self.write(f'{kind.replace(" ", "_")}_{name}', data)

    def broken_json(self, name: str, good: Path, of_lists: bool = False) -> Iterator[tuple[str, Path]]:
        """Kinds of files in place of a good json."""
        yield from self.broken(name, good)
        text = good.read_text(encoding='utf-8')
        at = text.index(': "') + 3 if ': "' in text else 1
        yield 'latin-1', self.write(f'latin1_{name}', (text[:at] + 'é' + text[at:]).encode('latin-1'))
        wrong: list[Any] = [
            None,
            'text',
            [],
            [[1, 2]],
            {'images': 3, 'words': 3},
            {'images': [3], 'words': [3]},
            {'images': []},
        ]
        for value in wrong:
            if of_lists and value == []:
                continue  # the right kind
            label = json.dumps(value).translate({ord(letter): '_' for letter in ' "{}[]:,'})
            yield 'json of another kind', self.write(f'other_{label}_{name}', json.dumps(value).encode())
        yield 'json nested deeply', self.write(f'deep_{name}', b'[' * 100_000 + b']' * 100_000)

    def write(self, name: str, content: bytes) -> Path:
        """A file of the folder."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def changed(self, name: str, good: Path, change: Callable[[Any], Any]) -> Path:
        """A json with a change."""
        content = json.loads(good.read_text(encoding='utf-8'))
        changed = change(content)
        return self.write(name, json.dumps(content if changed is None else changed).encode())

    def common(self, tool: str, config: Path | None = None) -> list[object]:
        """A command line of a tool that takes a config, right but for the config."""
        config = config or self.place.config
        return {
            'train': [config, '--work-dir', self.out / 'work'],
            'test': [config, self.checkpoint, '--work-dir', self.out / 'work'],
            'cache_features': [config, '--out', self.out / 'cache'],
            'browse_dataset': [config, '--out-dir', self.out, '--split', 'test'],
            'show_graph': [config, '--out-dir', self.out, '--split', 'test'],
            'run_seeds': [
                *(config, '--seeds', 0, '--name', 'bad', '--out', self.out, '--work-dir', self.out / 'work'),
            ],
            'extract_proposals': [
                *(config, self.place.weights, self.place.data / 'images', '--out', self.out / 'p.json'),
            ],
        }.get(tool, [config])

    def with_options(self, kind: str, tool: str, option: str, *names: str) -> Case:
        """A case of ``--cfg-options``."""
        return Case(kind, tool, [*self.common(tool), '--cfg-options', option], names)

    def wrong_value(self, tool: str, words: list[object], option: str, value: object) -> Case:
        """A case of an option, in place of the one that a command line has."""
        words = list(words)
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
        names = (option, option.strip('-').replace('-', '_'), str(value))
        return Case('wrong value of an option', tool, [*words, option, value], names)

    def right(self) -> dict[str, list[object]]:
        """A command line of each tool that is right."""
        place, out = self.place, self.out
        return {name: self.common(name) for name in TOOLS} | {
            'build_vocabulary': [self.captions, '--out', out / 'v.json'],
            'convert_captions': [self.captions, '--out', out / 'd.json'],
            'convert_detections': [place.results, place.listing, '--out', out / 'p.json'],
            'convert_released_galr': [self.checkpoint, out / 'r.pth'],
            'extract_proposals': self.common('extract_proposals', place.detector),
            'make_mini_dataset': ['--out', out / 'mini'],
            'make_results': [self.write('empty.md', b'nothing\n')],
            'eval_selo': [
                *(place.config, self.checkpoint, '--annotations', self.annotations, '--scenes', place.data / 'images'),
                *('--out', out / 'selo.json'),
            ],
            'make_selo_mosaics': [self.captions, '--out', out / 'selo', '--grid', 1, '--tile', 64, '--scenes', 1],
            'word_vectors': [place.data / 'vocabulary.json', '--out', out / 'vectors.txt'],
            'publish_model': [self.checkpoint, '--out', out / 'm.safetensors'],
            'rerank': [place.scores],
        }
