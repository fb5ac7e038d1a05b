import numpy as np
import pytest
from PIL import Image

from galr_mm.cli import browse_dataset, show_graph
from tests.helpers import run_tool

MAIN = {'browse_dataset': browse_dataset.main, 'show_graph': show_graph.main}


@pytest.mark.parametrize('tool', ['browse_dataset', 'show_graph'])
@pytest.mark.parametrize('split', ['train', 'test'])
def test_images_are_drawn_without_a_display(mini_config, tmp_path, tool, split):
    done = run_tool(
        f'tools/visualization/{tool}.py', mini_config, '--out-dir', tmp_path / 'out', '--split', split, '--num', 3,
        env={'DISPLAY': '', 'MPLBACKEND': ''} if split == 'train' else {},
    )  # fmt: skip
    files = sorted((tmp_path / 'out').iterdir())
    assert [file.suffix for file in files] == ['.png'] * 3
    assert f'drawn to {tmp_path / "out"}' in done.stdout
    for file in files:
        assert np.asarray(Image.open(file)).std() > 10


@pytest.mark.parametrize('tool', ['browse_dataset', 'show_graph'])
@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['nowhere.py'], 'no config at nowhere.py'),
        (['CONFIG', '--num', '0'], '--num is 0'),
        (['CONFIG', '--cfg-options', 'train_dataloader.dataset.ann_file=nowhere.json'], 'nowhere.json'),
    ],
)
def test_bad_arguments(mini_config, tmp_path, tool, args, message):
    args = [str(mini_config) if arg == 'CONFIG' else arg for arg in args]
    with pytest.raises(SystemExit, match=message):
        MAIN[tool]([*args, '--out-dir', str(tmp_path / 'out')])


def test_no_graphs_without_proposals(mini_config, tmp_path):
    option = 'train_dataloader.dataset.proposal_file=None'
    with pytest.raises(SystemExit, match='has no proposals'):
        show_graph.main([str(mini_config), '--out-dir', str(tmp_path), '--cfg-options', option])
