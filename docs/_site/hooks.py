"""Hooks of mkdocs: pages made from the code, and links that leave ``docs/``.

- ``reference/galr_mm/...``: one page for each public module, rendered by mkdocstrings, in the folders of the package.
- ``reference/types.md``: every registered type with the arguments of its constructor.
- Pages that live beside the code (``benchmarks/README.md``, ``CHANGELOG.md``, ...) are taken into the site. Links to
  them and to modules become links inside the site; links to other files of the repository become plain text.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from griffe_rst import to_markdown
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = 'galr_mm'
TAKEN_IN = {
    'benchmarks/README.md': 'benchmarks.md',
    'projects/README.md': 'projects/index.md',
    'projects/example_project/README.md': 'projects/example_project.md',
    'projects/remoteclip/README.md': 'projects/remoteclip.md',
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
    'SECURITY.md': 'security.md',
}
TYPES = 'reference/types.md'  # what the site shows for a link to the registries
STANDS_IN = {
    'HOOKS': 'In `custom_hooks`.',
    'DATASETS': 'In `train_dataloader.dataset`, `val_dataloader.dataset` and `test_dataloader.dataset`.',
    'TRANSFORMS': 'In the `pipeline` of a data set.',
    'MODELS': 'As `model`, or as a part of one.',
    'EVALUATOR': 'As `val_evaluator` and `test_evaluator`.',
    'METRICS': 'In `metrics` of the evaluator.',
    'RERANKERS': 'In `rerank`, by the whole type or by a preset: `mr`, `rr`, `product`.',
}
LINK = re.compile(r'(!?)\[([^\]\n]*)\]\(([^)\s]+)\)')


# Pages of modules


def module_files() -> list[Path]:
    """Source files of the public modules, each package before its members."""
    package = ROOT / PACKAGE
    files = (path.relative_to(ROOT) for path in package.rglob('*.py'))
    public = (path for path in files if all(part == '__init__.py' or part[0] not in '._' for part in path.parts))
    return sorted(public, key=lambda path: path.with_suffix('').parts)


def page_of(module: Path) -> str:
    """Page of a source file: ``galr_mm/text/__init__.py`` -> ``reference/galr_mm/text/index.md``."""
    name = 'index' if module.stem == '__init__' else module.stem
    return (Path('reference') / module.parent / f'{name}.md').as_posix()


@functools.cache
def source() -> griffe.Module:
    """The package as griffe reads it, without importing it."""
    loaded = griffe.load(PACKAGE, search_paths=[ROOT], resolve_aliases=True)
    assert isinstance(loaded, griffe.Module)
    return loaded


def summary(docstring: griffe.Docstring | None) -> str:
    """First sentence or line of a docstring, for a table."""
    return cell(docstring.value.strip().split('\n\n')[0]) if docstring else ''


def module_page(module: Path) -> str:
    """Markdown of a module's page; a package also lists what it exports."""
    parts = module.with_suffix('').parts
    if parts[-1] != '__init__':
        return f'# {parts[-1]}\n\n::: {".".join(parts)}\n'
    name = '.'.join(parts[:-1])
    found = source() if name == PACKAGE else source()[name.partition('.')[2]]
    lines = [f'# {name}', '', f'::: {name}', '    options:', '      members: false', '']
    exports = [export for export in found.exports or [] if isinstance(export, str) and export[0] != '_']
    if exports:
        lines += ['| name | |', '| --- | --- |']
        for export in exports:
            target = found[export].final_target if found[export].is_alias else found[export]
            link = f'({export}/index.md)' if target.is_module else f'[{target.path}]'
            lines.append(f'| [`{export}`]{link} | {summary(target.docstring)} |')
    return '\n'.join(lines) + '\n'


def reference_nav(modules: list[Path]) -> list[Any]:
    """The navigation of the reference, nested as the folders are; a package's own page opens its section."""
    nav: list[Any] = []
    sections = {Path('.'): nav}
    for module in modules:
        if module.stem == '__init__':
            section: list[Any] = [page_of(module)]
            sections[module.parent.parent].append({module.parent.name: section})
            sections[module.parent] = section
        else:
            sections[module.parent].append({module.stem: page_of(module)})
    return nav


# The page of registered types


def registered() -> Iterator[tuple[str, str, dict[str, type]]]:
    """Name of each registry of the package, where its types stand in a config, and the types."""
    from mmengine.registry import Registry

    registry = importlib.import_module(f'{PACKAGE}.registry')
    for name, value in vars(registry).items():
        if isinstance(value, Registry) and value.scope == PACKAGE:
            value.import_from_location()
            types = {key: kind for key, kind in value.module_dict.items() if kind.__module__.startswith(PACKAGE)}
            yield name, STANDS_IN.get(name, ''), dict(sorted(types.items()))


def described_arguments(kind: type) -> dict[str, str]:
    """Descriptions of constructor arguments, from the docstrings of the class and of those it inherits from."""
    found: dict[str, str] = {}
    for base in kind.__mro__[:-1]:
        text = '\n\n'.join(filter(None, (inspect.getdoc(base) if '__doc__' in vars(base) else '', _init_doc(base))))
        for section in griffe.Docstring(text).parse('google', warnings=False):
            if isinstance(section, griffe.DocstringSectionParameters):
                for argument in section.value:
                    found.setdefault(argument.name.lstrip('*'), cell(argument.description))
    return found


def _init_doc(kind: type) -> str:
    init = vars(kind).get('__init__')
    return inspect.getdoc(init) or '' if init is not None else ''


def arguments(kind: type) -> list[tuple[str, str, str, str]]:
    """Name, type, default and description of each argument of a constructor."""
    descriptions = described_arguments(kind)
    rows = []
    for name, parameter in inspect.signature(kind).parameters.items():
        annotation = parameter.annotation
        typed = '' if annotation is parameter.empty else inspect.formatannotation(annotation).strip("'")
        default = 'required' if parameter.default is parameter.empty else f'`{parameter.default!r}`'
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            name, default = f'{"*" * (1 + (parameter.kind is parameter.VAR_KEYWORD))}{name}', ''
        description = descriptions.get(name.lstrip('*'), '')
        if name == 'init_cfg' and not description:
            description = "weights to start from, in mmengine's way"
        rows.append((name, typed.replace('typing.', ''), default, description))
    return rows


def types_page() -> str:
    """Markdown of the table of registered types."""
    lines = [
        '# Registered types',
        '',
        "What `type='galr_mm.NAME'` can be in a config of any OpenMMLab project, without `custom_imports`, with the",
        'arguments of each constructor. This page is generated from the code.',
        '',
    ]
    for registry, place, types in registered():
        lines += [f'## {registry}', '', place, '', '| type | |', '| --- | --- |']
        lines += [f'| [`{name}`](#{anchor(name)}) | {summary_of(kind)} |' for name, kind in types.items()]
        for name, kind in types.items():
            path = f'{kind.__module__}.{kind.__qualname__}'
            lines += ['', f'### galr_mm.{name} {{ #{anchor(name)} }}', '', f'{summary_of(kind)}', '']
            lines += [f'In full: [`{path}`][{path}]', '']
            rows = arguments(kind)
            if rows:
                lines += ['| argument | type | default | |', '| --- | --- | --- | --- |']
                lines += [f'| `{n}` | {f"`{t}`" if t else ""} | {d} | {text} |' for n, t, d, text in rows]
        lines.append('')
    return '\n'.join(lines)


def anchor(name: str) -> str:
    """Anchor of a type on its page."""
    return f'type-{name.lower()}'


def summary_of(kind: type) -> str:
    """One line that says what a class is."""
    return cell((inspect.getdoc(kind) or '').split('\n\n')[0])


def cell(text: str) -> str:
    """A docstring's paragraph as one line of Markdown that fits a table."""
    text = ' '.join(to_markdown(text).replace('``', '`').split())
    pieces = re.split(r'(`[^`]*`)', text)
    return ''.join(piece if piece.startswith('`') else piece.replace('|', r'\|') for piece in pieces)


# Links


def rewrite_links(markdown: str, origin: Path, page: str) -> str:
    """Make links of a page fit the site.

    Args:
        markdown: text of the page.
        origin: file the text is from, relative to the repository.
        page: its place in the site, ending in .md.
    """

    def fitting(match: re.Match[str]) -> str:
        bang, text, target = match.groups()
        path, mark, rest = target.partition('#')
        if not path or '://' in path or path.startswith('mailto:'):
            return match[0]
        wanted = os.path.normpath(origin.parent / path)
        if wanted in TAKEN_IN:
            place = TAKEN_IN[wanted]
        elif f'{wanted}/README.md' in TAKEN_IN:
            place = TAKEN_IN[f'{wanted}/README.md']
        elif wanted == f'{PACKAGE}/registry.py':
            place = TYPES
        elif wanted.startswith(f'{PACKAGE}/') and wanted.endswith('.py'):
            place = page_of(Path(wanted))
        elif wanted.startswith('docs/'):
            place = wanted.removeprefix('docs/')
        elif (ROOT / wanted).exists():
            return text if '`' in text else f'`{text}`'
        else:
            return match[0]  # mkdocs names it, and a strict build fails
        return f'{bang}[{text}]({os.path.relpath(place, Path(page).parent)}{mark}{rest})'

    fence = re.compile(r'^(```.*?^```)', re.DOTALL | re.MULTILINE)
    return ''.join(part if part.startswith('```') else LINK.sub(fitting, part) for part in fence.split(markdown))


# The hooks


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the modules into the navigation, after the page of types."""
    for item in config.nav or []:
        if isinstance(item, dict) and 'Reference' in item:
            item['Reference'] += reference_nav(module_files())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what does not lie in ``docs/``."""
    for module in module_files():
        files.append(File.generated(config, page_of(module), content=module_page(module)))
    files.append(File.generated(config, TYPES, content=types_page()))
    for origin, page in TAKEN_IN.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / origin)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links that leave ``docs/`` fit the site."""
    place = page.file.src_uri
    origins = {target: origin for origin, target in TAKEN_IN.items()}
    return rewrite_links(markdown, Path(origins.get(place, f'docs/{place}')), place)
