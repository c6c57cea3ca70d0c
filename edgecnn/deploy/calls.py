"""System calls that proot does not know are made to look absent, so that programs use those it does.

proot 5.1.0, which Debian 12 and 13 have, translates the paths of the calls that Linux had when it was
written. A later one goes through untranslated: ``ls`` asks by ``statx`` and is shown this machine's file
instead of the emulated one's. With ``ENOSYS`` for an answer QEMU and glibc fall back to the older call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

UNKNOWN_TO_PROOT: Final = {"x86_64": (332, 437, 439, 452), "aarch64": (291, 437, 439, 452)}
"""statx, openat2, faccessat2 and fchmodat2, by machine (Linux, ``unistd_64.h`` and ``unistd.h``)."""

_LOAD_NUMBER: Final = (0x20, 0, 0, 0)  # BPF_LD | BPF_W | BPF_ABS, offset of seccomp_data.nr
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("code", ctypes.c_char_p))


def hide() -> None:
    """Hide the calls from this process and all that it starts; for between ``fork`` and ``exec``.

    Raises:
        OSError: If the kernel does not filter calls.

    Source:
        Linux, ``Documentation/userspace-api/seccomp_filter.rst``; ``struct sock_filter``.
    """
    numbers = UNKNOWN_TO_PROOT.get(platform.machine(), ())
    tests = [(_JUMP_IF_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    steps = [_LOAD_NUMBER, *tests, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    for option in (
        (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), ctypes.c_ulong(0)),
        (_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program)),
    ):
        if libc.prctl(*option, ctypes.c_ulong(0), ctypes.c_ulong(0)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
