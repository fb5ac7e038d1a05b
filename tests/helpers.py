"""What test modules share besides fixtures."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
SMALL = dict(train=24, val=8, test=11)  # 11 is not divisible by two processes
DETECTOR_CONFIG = ROOT / 'configs/detection/rtmdet-tiny_mini.py'
TINY_CLIP = str(ROOT / 'tests/data/clip/tiny-vit.json')
AT_START = dict(os.environ)
# read when they are needed; any other variable may be read by an import and needs a fresh interpreter
RUN_TIME_VARIABLES = {'GALR_DATA_ROOT', 'PYTEST_CURRENT_TEST', 'PYTHONPATH', 'MASTER_ADDR', 'MASTER_PORT'}


def environment(**changes: str) -> dict[str, str]:
    """Environment of a process of one thread, so that tests do not fight for cores.

    That of the session's start: what runs in this process leaves there (mmengine sets variables) does not count.
    """
    kept = {name: value for name, value in AT_START.items() if name not in RUN_TIME_VARIABLES}
    now = {name: os.environ[name] for name in RUN_TIME_VARIABLES & os.environ.keys()}
    return {**kept, **now, 'OMP_NUM_THREADS': '1', **changes}


def run_tool(
    *args: object,
    check: bool = True,
    env: dict[str, str] | None = None,
    timeout: float = 560,
    cwd: Path | str = ROOT,
    fresh: bool = False,
    processes: int = 0,
) -> subprocess.CompletedProcess[str]:
    """Run ``python *args`` as a user would.

    A script, or the code after ``-c``, runs in a fork of a process that has imported mmpretrain (tests/zygote.py), in a
    tenth of a second instead of seven. ``fresh``, ``-m`` or an environment that imports may depend on start an
    interpreter. ``processes`` starts the script so many times, with the environment that torchrun gives.
    """
    command, env = [*map(str, args)], environment(**(env or {}))
    if processes:
        env |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    if not fresh and command[0].endswith(('.py', '-c')) and zygote().fits(env):
        done = zygote().run(command, Path(cwd), env, timeout, processes)
    else:
        assert not processes, 'two processes are forked: a script, and no variables that imports read'
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout
        )
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@functools.cache
def zygote() -> Zygote:
    """The one of this test process, started when it is first needed."""
    return Zygote()


class Zygote:
    """Client of tests/zygote.py. The process ends with this one: its standard input closes."""

    def __init__(self) -> None:
        self.env = environment()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115, closed with this process
        command = [sys.executable, str(ROOT / 'tests/zygote.py')]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=self.env, bufsize=0
        )
        atexit.register(self.process.communicate)

    def fits(self, env: dict[str, str]) -> bool:
        """Whether imports would do in this environment what they did in the zygote's."""
        return {name for name in {*env, *self.env} if env.get(name) != self.env.get(name)} <= RUN_TIME_VARIABLES

    def run(
        self, args: list[str], cwd: Path, env: dict[str, str], timeout: float, processes: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """What ``subprocess.run`` gives."""
        with tempfile.TemporaryDirectory() as folder:
            stdout, stderr = Path(folder, 'stdout'), Path(folder, 'stderr')
            stdout.touch()
            stderr.touch()
            request = dict(
                args=args, cwd=str(cwd), env=env, stdout=str(stdout), stderr=str(stderr), processes=processes
            )
            self.process.stdin.write(json.dumps(request).encode() + b'\n')
            child = self.answer()
            if not select.select([self.process.stdout], [], [], timeout)[0]:
                os.killpg(child, signal.SIGKILL)
                self.answer()
                raise subprocess.TimeoutExpired(args, timeout, stdout.read_text(), stderr.read_text())
            return subprocess.CompletedProcess(args, self.answer(), stdout.read_text(), stderr.read_text())

    def answer(self) -> int:
        """The next line, a number."""
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f'tests/zygote.py ended: {self.log.read().decode()}')
        return int(line)


def free_port() -> str:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


def shrink_clip(cfg: Config, mini: Path, work_dir: Path) -> list[str]:
    """Let a CLIP config run in seconds: a tiny CLIP with random weights, a few images. Gives the splits it has."""
    tiny = dict(model_name=TINY_CLIP, pretrained=None)
    for tower in [cfg.model] if 'model_name' in cfg.model else [cfg.model.backbone, cfg.model.text_encoder]:
        assert set(tiny) <= set(tower)
        tower.update(tiny)
    splits = [split for split in ('train', 'val', 'test') if cfg[f'{split}_dataloader'] is not None]
    for split in splits:
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=5, num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=f'{mini}/', ann_file='dataset_mini.json')
        loader.dataset.update(proposal_file=f'instances_{split}.json')
        loader.dataset.pipeline[0].model_name = tiny['model_name']
        if split == 'train':
            loader.dataset.indices = 10
            cfg.train_cfg.max_epochs = 1
    cfg.work_dir = str(work_dir)
    return splits
