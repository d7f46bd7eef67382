"""Child process: imports one module and writes its pydoc page to standard output.

Runs as a script in its own process, with limits on CPU time and output, and without network if the kernel allows it.
Values that differ between runs (memory addresses, module data) are omitted.

    python render_module.py MODULE CPU_SECONDS MAX_BYTES     one byte when ready, then the page
    python render_module.py --isolated                       exit code 0 if network isolation is possible

Exit codes: 0 rendered, 103 the module cannot be imported, 104 the page is too large, 105 the machine failed (the page
says how), 106 the page cannot be written.
"""

import ctypes
import errno
import os
import pydoc
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

# Exit codes that modules are unlikely to use.
IMPORT_ERROR = 103
TOO_LARGE = 104
FAULT = 105
UNWRITTEN = 106
READY = b"+"
ADDRESS = re.compile(r"(?:&nbsp;| )at(?:&nbsp;| )0x[0-9a-fA-F]+")
FAULTS = (errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


class StablePages(pydoc.HTMLDoc):
    """pydoc pages without data values, which may contain times, paths and process ids."""

    def docother(self, object: Any, name: Any = None, mod: Any = None, *ignored: Any) -> str:
        return f"<strong>{self.escape(str(name))}</strong>: {self.escape(type(object).__name__)}"

    def filelink(self, url: str, path: str) -> str:
        return ""  # local file paths are not useful to readers


def leave_network() -> bool:
    """Enter a namespace without network, even loopback; False if the kernel forbids it."""
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None).unshare
    if unshare(CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    # Without these mappings the process would run as nobody.
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            Path("/proc/self", name).write_text(content)
        except OSError:
            break
    return True


def limit(cpu_seconds: int, max_bytes: int) -> None:
    """Limit this process, also to its parent's lifetime; the alarm covers modules that sleep."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes + len(READY), max_bytes + len(READY)))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.alarm(6 * cpu_seconds)


def render(name: str) -> str:
    """Render the page of one module."""
    module = pydoc.safeimport(name)
    if module is None:
        raise ImportError(name)
    pages = StablePages()
    return ADDRESS.sub("", pages.page(pydoc.describe(module), pages.document(module, name)))


def fault_in(error: BaseException | None) -> str:
    """Missing machine resource, from an error and its causes; empty if the module failed."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError):
            return "out of memory"
        if isinstance(error, OSError) and error.errno in FAULTS:
            return os.strerror(error.errno)
        error = error.value if isinstance(error, pydoc.ErrorDuringImport) else error.__cause__ or error.__context__
    return ""


def main(name: str, cpu_seconds: int, max_bytes: int) -> int:
    # A module may print during import; only the page goes to the real output.
    output = os.dup(1)
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    limit(cpu_seconds, max_bytes)
    leave_network()
    with os.fdopen(output, "wb", buffering=0) as stream:
        stream.write(READY)
        try:
            page = render(name).encode("utf-8", "replace")
        except BaseException as error:
            what = fault_in(error)
            stream.write(what.encode())
            return FAULT if what else IMPORT_ERROR
        if len(page) > max_bytes:
            return TOO_LARGE
        while page:
            page = page[stream.write(page) :]
    return 0


def guarded(arguments: list[str]) -> int:
    """Exit code of `main`, which raises if its output cannot be written."""
    try:
        return main(arguments[0], int(arguments[1]), int(arguments[2]))
    except OSError:
        return UNWRITTEN


if __name__ == "__main__":
    if sys.argv[1:] == ["--isolated"]:
        sys.exit(0 if leave_network() else 1)
    # Not sys.exit: threads and exit handlers of the module must not delay the exit.
    os._exit(guarded(sys.argv[1:]))
