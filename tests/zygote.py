"""A process that has imported what tools need, and forks itself for each tool that a test runs.

``python tests/zygote.py`` reads one request a line from standard input (json: args, cwd, env, stdout, stderr,
processes) and answers with two lines: the child's process id, then its exit code. It ends when standard input does,
that is with the test run. Nothing but imports runs before a fork: no thread is started and no random state, registry or
default scope is touched, so a child differs from a fresh interpreter in its loaded modules only. ``galr_mm`` and
``mmdet`` are not among them; how they come in when a tool needs them stays what is tested.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import sys
import threading
from typing import NoReturn

children: list[int] = []  # the other processes of a distributed run, in its first
IMPORTS = ('mmengine.runner', 'mmcv.ops', 'mmpretrain.models', 'torch_geometric', 'matplotlib.pyplot')


def serve() -> dict | None:
    """Answer requests. Returns a request in the child that is to fulfil it, None in the parent at the end."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            return json.loads(line)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def become(args: list[str], cwd: str, env: dict[str, str], stdout: str, stderr: str, processes: int) -> None:
    """Take on the state of a process that was started as ``python *args``."""
    import numpy

    os.setsid()  # so that a timeout can end its own children too
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    before = [os.path.abspath(path) for path in env.get('PYTHONPATH', '').split(os.pathsep) if path]
    sys.path[:0] = ['' if args[0] == '-c' else os.path.dirname(os.path.abspath(args[0])), *before]
    for name, target in ((os.devnull, 0), (stdout, 1), (stderr, 2)):
        file = os.open(name, os.O_RDONLY if target == 0 else os.O_WRONLY)
        os.dup2(file, target)
        os.close(file)
    sys.argv = args[:1] + args[2:] if args[0] == '-c' else list(args)
    if processes:  # of one distributed run, on this machine
        os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes))
        for rank in range(1, processes):
            child = os.fork()
            if not child:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
                children.clear()
                break
            children.append(child)
    numpy.random.seed()  # Python's own generator is seeded anew by the fork


def run(script: str, code_of_c: str = '') -> NoReturn:
    """Run a script, or the code after ``-c``, and end as the interpreter does, but modules stay up (2 seconds)."""
    code: object = 0
    try:
        if script == '-c':
            exec(compile(code_of_c, '<string>', 'exec'), vars(sys.modules['__main__']))
        else:
            runpy.run_path(script, run_name='__main__')
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # waits for threads that are not daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    codes = [int(code or 0) & 0xFF, *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)]
    os._exit(next(filter(None, codes), 0))


if __name__ == '__main__':
    del sys.path[0]  # this folder
    os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] = '1'  # imports ask for a GPU; asking CUDA itself would forbid the fork
    os.environ['JE_ARROW_MALLOC_CONF'] = 'background_thread:false'  # pandas imports pyarrow where it is installed
    with contextlib.redirect_stdout(io.StringIO()):
        for module in IMPORTS:
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(module)
    threads = os.listdir('/proc/self/task') if os.path.isdir('/proc/self/task') else [None]
    if len(threads) > 1:
        sys.exit(f'{len(threads)} threads run after the imports; a fork would lose all but one')
    gc.freeze()  # collections of a child leave these pages shared
    request = serve()
    if request is not None:
        become(**request)
        run(*request['args'][:2])
