import cv2
import numpy as np

from galr_mm.visualization import Hit, draw_ranked_hits
from galr_mm.visualization.ranked_hits import _legend


def test_sheet(tmp_path):
    image = tmp_path / 'a.png'
    cv2.imwrite(str(image), np.full((40, 40, 3), 128, np.uint8))
    right = Hit(str(image), 0.9, True, np.array([[0.1, 0.1, 0.7, 0.7]]))
    wrong = Hit(str(image), 0.8, False)
    draw_ranked_hits([('a caption', [right, wrong]), ('another', [wrong, wrong])], tmp_path / 'x/sheet.png')
    sheet = cv2.imread(str(tmp_path / 'x/sheet.png'))
    height, width = sheet.shape[:2]
    green = np.abs(sheet.astype(int) - (65, 150, 26)).max(-1) < 12
    assert green[: height // 2].sum() > 200  # the frame of the positive, in the first row only
    assert green[height // 2 :].sum() == 0
    assert [p.name for p in (tmp_path / 'x').iterdir()] == ['sheet.png']


def test_the_positive_that_is_not_among_the_best(tmp_path):
    """It stands behind them, framed in dashes, and the sheet says what dashes and boxes are."""
    image = tmp_path / 'a.png'
    cv2.imwrite(str(image), np.full((40, 40, 3), 128, np.uint8))
    wrong = Hit(str(image), 0.8, False)
    far = Hit(str(image), None, True, np.array([[0.1, 0.1, 0.7, 0.7]]), rank=17)
    for name, hit in (('plain', far._replace(rank=None)), ('dashed', far)):
        draw_ranked_hits([('a caption', [wrong, hit])], tmp_path / f'{name}.png')
    green = {}
    for name in ('plain', 'dashed'):
        sheet = cv2.imread(str(tmp_path / f'{name}.png')).astype(int)
        green[name] = (np.abs(sheet - (65, 150, 26)).max(-1) < 12)[:, sheet.shape[1] // 2 :].sum()
    assert 0.3 < green['dashed'] / green['plain'] < 0.9
    lines = _legend([wrong, far]).splitlines()
    assert lines[0].startswith('dashed: the best positive')
    assert 'proposals with a score of 0.3 or more' in lines[1]
    assert _legend([wrong]) == ''
