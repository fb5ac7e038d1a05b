"""Semantic localization is evaluated beside its baselines."""

import json

import numpy as np
import pytest
import torch

from galr_mm.apis import SceneLocalizer, init_model, pretrained_models
from galr_mm.apis.hub import WEIGHTS
from galr_mm.cli.eval_selo import evaluate, main, means, other_sentences
from galr_mm.cli.make_selo_mosaics import main as make_mosaics
from galr_mm.datasets.captions import number_records
from galr_mm.datasets.localization import read_air_slt
from galr_mm.evaluation import semantic_localization_metrics
from tests.color_retriever import ColorRetriever, draw_color_set
from tests.helpers import ROOT


def mosaics(source, out, *options):
    make_mosaics([str(source), '--out', str(out), *options])
    return ['--annotations', str(out / 'anno.json'), '--scenes', str(out / 'scenes')]


def test_a_model_that_knows_is_above_its_baselines(tmp_path):
    (tmp_path / 'dataset.json').write_text(json.dumps(dict(images=number_records(draw_color_set(tmp_path)))))
    options = ['--class-pattern', '([a-z]+)_', '--scenes', '2', '--grid', '3', '--tile', '100', '--sentences', '4']
    mosaics(tmp_path / 'dataset.json', tmp_path / 'selo', *options)
    cases = read_air_slt(tmp_path / 'selo/anno.json')
    model = ColorRetriever().eval()
    localizer = SceneLocalizer(model, (50, 100), batch_size=1000)
    results = evaluate(localizer, cases, tmp_path / 'selo/scenes', median=15, seed=0)
    assert model.calls == 2  # each scene once, whatever the sentences
    assert [(result['scene'], result['sentence']) for result in results] == [case[:2] for case in cases]
    average = means(results)
    for baseline in ('constant', 'shuffled'):
        assert average['model']['rsu'] > average[baseline]['rsu'] + 0.2
        assert average['model']['rmi'] > average[baseline]['rmi'] + 0.2
    case, result = cases[-1], results[-1]
    prob = localizer(tmp_path / 'selo/scenes' / case.scene, case.sentence).normalized(15)
    assert result['model'] == pytest.approx(semantic_localization_metrics(prob, case.regions), abs=1e-9)
    assert result['constant'] == semantic_localization_metrics(np.ones_like(prob), case.regions)
    assert average['model']['rda'] == pytest.approx(np.mean([result['model']['rda'] for result in results]))


def test_other_sentences_are_others():
    sentences = [f'a field with {n} trees' for n in range(20)]
    for seed in range(20):
        others = other_sentences(sentences * 2, seed)
        assert sorted(others.values()) == sorted(sentences)
        assert all(others[sentence] != sentence for sentence in sentences)
    assert others != other_sentences(sentences, 0)
    with pytest.raises(ValueError, match="the only sentence is 'a river'"):
        other_sentences(['a river', 'a river'], 0)


@pytest.fixture(scope='module')
def prepared(mini, mini_config, tmp_path_factory):
    """Arguments of the tool for an untrained GaLR on small mosaics, and their folder."""
    folder = tmp_path_factory.mktemp('selo')
    torch.manual_seed(0)
    torch.save(init_model(mini_config).state_dict(), folder / 'galr.pth')
    files = mosaics(mini / 'dataset_mini.json', folder, '--scenes', '2', '--grid', '2', '--tile', '64')
    return folder, [str(mini_config), str(folder / 'galr.pth'), *files, '--scales', '64', '--device', 'cpu']


def test_the_tool(prepared, tmp_path, capsys):
    folder, argv = prepared
    main([*argv, '--median', '0', '--out', str(tmp_path / 'new/selo.json')])
    written = json.loads((tmp_path / 'new/selo.json').read_text())
    assert written['checkpoint'] == str(folder / 'galr.pth')
    assert (written['scenes'], written['scales'], written['median']) == (2, [64], 0)
    assert written['sentences'] == len(written['per_sentence']) > 2
    printed = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[-3:]}
    for name in ('model', 'constant', 'shuffled'):
        expected = [np.mean([entry[name][key] for entry in written['per_sentence']]) for key in written[name]]
        assert list(written[name].values()) == pytest.approx(expected)
        assert [float(value) for value in printed[name]] == pytest.approx(expected, abs=1e-4)


def test_what_stops_the_tool(prepared, tmp_path, mini_config):
    folder, argv = prepared
    out = ['--out', str(tmp_path / 'selo.json')]
    entries = json.loads((folder / 'anno.json').read_text())
    outside = {**entries[-1], 'points': [[[900, 900], [950, 900], [950, 950]]]}
    for content, match in (
        (
            [{**entry, 'jpg_name': f'gone{n}.jpg'} for n, entry in enumerate(entries)],
            r'scenes are not in .*gone0\.jpg, ',
        ),
        ([*entries[:-1], outside], rf'entry {len(entries) - 1} on 0001\.jpg: no pixel'),
        (entries[:1], 'the only sentence is'),
        ([], 'an empty list'),
    ):
        (tmp_path / 'anno.json').write_text(json.dumps(content))
        with pytest.raises(SystemExit, match=match):
            main([*argv, *out, '--annotations', str(tmp_path / 'anno.json')])
    with pytest.raises(SystemExit, match='no checkpoint at nowhere'):
        main([argv[0], 'nowhere.pth', *argv[2:], *out])
    torch.save({'mystery': torch.ones(1)}, tmp_path / 'other.pth')
    with pytest.raises(SystemExit, match=r'small\.py with .*other\.pth: (?s:.*)backbone'):
        main([argv[0], str(tmp_path / 'other.pth'), *argv[2:], *out])
    with pytest.raises(SystemExit, match='CHECKPOINT is missing'):
        main([argv[0], *argv[2:], *out])
    with pytest.raises(SystemExit, match=r'scales are \[0\]'):
        main([*argv, *out, '--scales', '0'])
    with pytest.raises(SystemExit):
        main([*argv, *out, '--median', '4'])
    assert not (tmp_path / 'selo.json').exists()


@pytest.mark.slow
def test_the_shipped_model_on_mosaics_of_real_images(real_data, tmp_path):
    """Of RSICD's test split, made here: well above a map of ones and above the maps of other sentences."""
    source, images = real_data('rsicd/dataset_rsicd.json'), real_data('rsicd/images')
    options = ['--images', str(images), '--class-pattern', '([a-z]+)_', '--scenes', '6', '--grid', '4', '--tile', '224']
    files = mosaics(source, tmp_path / 'selo', *options)
    name = pretrained_models()[0]
    weights = [str(ROOT / f'configs/{name}.py'), str(WEIGHTS / f'{name}.safetensors')]
    main([*weights, *files, '--scales', '112', '224', '--median', '51', '--out', str(tmp_path / 'selo.json')])
    found = json.loads((tmp_path / 'selo.json').read_text())
    assert found['sentences'] >= 12
    for baseline in ('constant', 'shuffled'):
        assert found['model']['rsu'] > found[baseline]['rsu'] + 0.1
        assert found['model']['rmi'] > found[baseline]['rmi'] + 0.1
