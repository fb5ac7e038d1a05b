from __future__ import annotations

from collections.abc import Sized

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from galr_mm.models.text import TokenizedTextEncoder
from galr_mm.registry import HOOKS
from galr_mm.utils.wrappers import unwrapped


@HOOKS.register_module()
class CaptionReportHook(Hook):
    """Says once, before a training or a test, how many captions the text encoder cuts and which words it does not know.

    ``tools/train.py`` and ``tools/test.py`` add it. It is silent where nothing is lost, and for models whose text
    encoder is not a :class:`~galr_mm.models.text.TokenizedTextEncoder`.
    """

    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        """Look at the training captions."""
        self._report(runner, runner.train_dataloader, 'training: ')

    def before_test(self, runner: Runner) -> None:
        """Look at the test captions."""
        self._report(runner, runner.test_dataloader, 'test: ')

    @staticmethod
    def _report(runner: Runner, loader: DataLoader, where: str) -> None:
        model = unwrapped(runner.model)
        encoder, dataset = getattr(model, 'text_encoder', None), loader.dataset
        if not is_main_process() or not isinstance(encoder, TokenizedTextEncoder):
            return
        if not hasattr(dataset, 'get_data_info') or not isinstance(dataset, Sized):  # not of mmengine
            return
        texts: dict[str, None] = {}  # different ones, in their order
        for index in range(len(dataset)):
            text = dataset.get_data_info(index).get('text')
            texts |= dict.fromkeys(t for t in (text if isinstance(text, list) else [text]) if isinstance(t, str))
        if texts:
            encoder.report_lost(list(texts), where)
