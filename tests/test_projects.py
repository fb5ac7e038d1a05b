import re

import torch

from galr_mm.apis import init_model
from tests.conftest import ROOT, run_tool


def test_own_reranker(mini_config, tmp_path):
    config = tmp_path / 'own.py'
    config.write_text(
        f"_base_ = '{mini_config}'\n"
        "custom_imports = dict(imports=['projects.example_project.centred'])\n"
        "rerank = ['mr', dict(type='CentredRerank', prefix='centred')]\n"
    )
    shipped = (ROOT / 'projects/example_project/centred_mini.py').read_text()
    assert config.read_text().split('\n', 1)[1].strip() in shipped
    torch.manual_seed(0)
    torch.save({'state_dict': init_model(mini_config).state_dict()}, tmp_path / 'a.pth')
    done = run_tool('tools/test.py', config, tmp_path / 'a.pth', '--work-dir', tmp_path, env={'PYTHONPATH': '.'})
    log = done.stdout + done.stderr
    assert re.search(r'^centred +\d', log, re.M)
    assert re.search(r'^mr +\d', log, re.M)
