"""What a fork does to sessions of ONNX Runtime, and what is done about it.

A session that another thread is making while the process forks leaves its locks held in the child for ever: so
sessions are made under one lock that a fork waits for. A session that was there before has lost its threads in the
child: it can neither run nor be freed, which would wait for them. So what holds one is kept there until the process
ends, and an autoencoder loads its bundle anew at its first call.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref

SESSIONS = threading.RLock()
"""Held while a session is made, and while a process forks."""

_holders: weakref.WeakSet[object] = weakref.WeakSet()


def keep_in_children(holder: object) -> None:
    """Never free `holder`, which holds a session, in a process that is forked from this one."""
    _holders.add(holder)


def _after_in_child() -> None:
    for holder in list(_holders):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(holder))  # not a list, which is cleared as the interpreter ends
    _holders.clear()
    SESSIONS.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=SESSIONS.acquire, after_in_parent=SESSIONS.release, after_in_child=_after_in_child)
