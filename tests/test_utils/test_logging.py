import logging
import sys

import pytest

from galr_mm.utils.logging import progress, quiet_terminal


def test_file_only(tmp_path, capsys):
    logger = logging.Logger('x', logging.INFO)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.addHandler(logging.FileHandler(tmp_path / 'log'))
    for _ in range(2):  # once is enough
        quiet_terminal(logger)
    frozen = 'net.bn1.weight is skipped since its requires_grad=False'
    messages = ['Config:\na = 1', 'paramwise_options -- x', frozen, 'Epoch(train) [1]', 'the Config: is fine']
    for message in messages:
        logger.info(message)
    assert capsys.readouterr().out.splitlines() == messages[3:]
    assert (tmp_path / 'log').read_text() == '\n'.join(messages) + '\n'


@pytest.mark.parametrize(('terminal', 'most'), [(False, 2), (True, 500)])
def test_progress_writes_little_where_no_terminal_is(monkeypatch, capsys, terminal, most):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal)
    clock = iter(i / 8 for i in range(10**6))  # an eighth of a second a look
    monkeypatch.setattr('tqdm.std.time', lambda: next(clock))
    assert sum(progress(range(100), unit='image')) == 4950
    written = capsys.readouterr().err.count('\r')
    assert written <= most
    assert terminal == (written > 20)
