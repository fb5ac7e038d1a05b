"""Places that cannot be written: a disk that is full, and one that is read-only.

The tools run in a mount namespace of this process, in which a folder is a tmpfs, made small or read-only once the
earlier output is there: permissions would not stop root.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.scenarios import Scenarios, contents, differences, unreadable
from benchmarks.faults.workplace import Done

NEW_NAMESPACES = 0x00020000 | 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
PRIVATE, REMOUNT, READ_ONLY = 0x40000 | 0x4000, 0x20, 0x1  # MS_...
PAGE = 4096
ROOM = 2**30
libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path | str, kind: str | None, flags: int, options: str | None = None) -> None:
    """The system call; needs a namespace of one's own."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, options)]
    if libc.mount(words[0], words[1], words[2], flags, words[3]):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def own_namespace() -> None:
    """Mounts of this process and its children are theirs alone from here on.

    Raises:
        OSError: where the system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_NAMESPACES):
        code = ctypes.get_errno()
        raise OSError(code, f'no mount namespace of its own: {os.strerror(code)}')
    Path('/proc/self/setgroups').write_text('deny')
    Path('/proc/self/uid_map').write_text(f'0 {user} 1')
    Path('/proc/self/gid_map').write_text(f'0 {group} 1')
    mount('none', '/', None, PRIVATE)


def campaign(
    scenarios: Scenarios, part: str, rounds: int, seed: int, log: Callable[[str], None]
) -> tuple[list[dict[str, Any]], str]:
    """Run each scenario in turn where it cannot write, so many times.

    Args:
        scenarios: what is run.
        part: 'disk' or 'readonly'.
        rounds: how many runs.
        seed: of how full the disk is.
        log: takes a line a run.

    Returns:
        a dict a run, whose ``problems`` are empty where all is well; and why nothing was run.
    """
    try:
        own_namespace()
    except OSError as error:
        return [], f'mounting is not allowed here ({error})'
    rng = np.random.default_rng(seed)
    names = [name for name in scenarios.by_name if name != 'training']  # the resumed one has earlier output
    rows = []
    for number in range(rounds):
        name = names[number % len(names)]
        _, expected = scenarios.undisturbed(name)
        folder = scenarios.place.folder / part / f'{number:03d}'
        folder.mkdir(parents=True)
        mount('tmpfs', folder, 'tmpfs', 0, f'size={ROOM}')
        scenarios.renew(name, folder)
        if scenarios.by_name[name].again:
            scenarios.start(name, folder)
        earlier = contents(folder)
        if part == 'disk':
            free = int(rng.uniform(0, 0.9 * needed(scenarios.whole(name))))
            size = (used(folder) + free) // PAGE * PAGE + PAGE
            mount('tmpfs', folder, None, REMOUNT, f'size={size}')
        else:
            free = 0
            mount('tmpfs', folder, None, REMOUNT | READ_ONLY)
        done = scenarios.start(name, folder)
        problems = list(complaints(done, folder))
        problems += [f'earlier output: {line}' for line in changed(earlier, folder)]
        mount('tmpfs', folder, None, REMOUNT, f'size={ROOM}')
        again = scenarios.start(name, folder)
        if again.code:
            problems.append(f'started again with room: exit code {again.code}, {again.last_line}')
        else:
            problems += differences(expected, contents(folder))
        libc.umount2(os.fsencode(folder), 2)  # MNT_DETACH
        rows.append(dict(what=name, free=free, message=done.last_line, problems=problems))
        log(f'{number + 1}/{rounds} {part}: {name}, {free} bytes free: {problems or done.last_line}')
    return rows, ''


def needed(folder: Path) -> int:
    """Bytes of the largest file of a result; of a training, of the smallest checkpoint."""
    checkpoints = [path.stat().st_size for path in folder.glob('*.pth')]
    return min(checkpoints) if checkpoints else max(p.stat().st_size for p in folder.rglob('*') if p.is_file())


def used(folder: Path) -> int:
    """Bytes that are in use on the file system of a folder."""
    disk = os.statvfs(folder)
    return (disk.f_blocks - disk.f_bfree) * disk.f_frsize


def complaints(done: Done, folder: Path) -> list[str]:
    """What is wrong with how a tool ended that could not write."""
    found = []
    if done.code <= 0:
        found.append(f'exit code {done.code}')
    if 'Traceback' in done.text:
        found.append('a traceback')
    if str(folder) not in done.last_line:
        found.append(f'the last line names no file: {done.last_line!r}')
    return found


def changed(earlier: dict[str, str], folder: Path) -> list[str]:
    """Files of before that are gone or different, unless newer ones of the same kind are whole."""
    now = contents(folder)
    kinds = {name.split('_')[0] for name in now if name.endswith('.pth')}  # best, epoch
    gone = [name for name in earlier if name not in now and name.split('_')[0] not in kinds]
    gone = [name for name in gone if not name.endswith('.lock')]  # of a run that was killed
    return [*unreadable(folder), *(f'{name} is gone' for name in gone)]


def table(rows: list[dict[str, Any]]) -> str:
    """A row for each scenario."""
    lines = ['| what | runs | clear end, earlier output whole, right with room again |', '| --- | --- | --- |']
    for name in dict.fromkeys(row['what'] for row in rows):
        of = [row for row in rows if row['what'] == name]
        lines.append(f'| {name} | {len(of)} | {sum(not row["problems"] for row in of)} of {len(of)} |')
    return '\n'.join(lines)
