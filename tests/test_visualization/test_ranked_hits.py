import cv2
import numpy as np

from galr_mm.visualization import Hit, draw_ranked_hits


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
