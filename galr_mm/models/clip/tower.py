from __future__ import annotations

from mmengine.model import BaseModule


def check_unlocked(lock: bool, unlocked: int, option: str) -> None:
    """Refuse a number of unlocked parts (``option``) that a locked tower cannot leave free."""
    if unlocked < 0 or (unlocked and not lock):
        raise ValueError(f'{option}={unlocked} is how many of a locked tower stay trainable, 0 or more; set lock=True')


class OpenCLIPTower(BaseModule):
    """What both towers share: weights that are loaded when they are built, and a lock.

    Attributes:
        frozen: the whole tower is locked, so it stays in evaluation.
    """

    frozen: bool = False

    def train(self, mode: bool = True) -> OpenCLIPTower:
        """Switch to training; a tower that is locked as a whole stays in evaluation."""
        super().train(mode)
        if self.frozen:
            for part in self.children():
                part.eval()
        return self

    def init_weights(self) -> None:
        """Leave the weights alone: they were loaded when the tower was built."""
