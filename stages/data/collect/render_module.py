"""Child process: import one module and write the page that pydoc makes of it to standard output.

Runs as a script, alone in its process, under limits on processor time, memory for output and open network. What
differs from run to run (memory addresses, values of module data) is left out of the page.

    python render_module.py MODULE CPU_SECONDS MAX_BYTES

Exit codes: 0 rendered, 3 the module cannot be imported, 4 the page is too large.
"""

import os
import pydoc
import re
import resource
import signal
import sys
from typing import Any

IMPORT_ERROR = 3
TOO_LARGE = 4
ADDRESS = re.compile(r"(?:&nbsp;| )at(?:&nbsp;| )0x[0-9a-fA-F]+")


class StablePages(pydoc.HTMLDoc):
    """pydoc's pages without the values of data, which may hold times, paths and process ids."""

    def docother(self, object: Any, name: Any = None, mod: Any = None, *ignored: Any) -> str:
        return f"<strong>{self.escape(str(name))}</strong>: {self.escape(type(object).__name__)}"

    def filelink(self, url: str, path: str) -> str:
        return ""  # where a file lies on this machine tells a reader nothing


def limit(cpu_seconds: int, max_bytes: int) -> None:
    """Bound this process; the alarm covers a module that sleeps instead of working."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.alarm(6 * cpu_seconds)


def render(name: str) -> str:
    """The page of one module."""
    module = pydoc.safeimport(name)
    if module is None:
        raise ImportError(name)
    pages = StablePages()
    return ADDRESS.sub("", pages.page(pydoc.describe(module), pages.document(module, name)))


def main(name: str, cpu_seconds: int, max_bytes: int) -> int:
    # A module may print while it is imported; only the page goes to the real output.
    output = os.dup(1)
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    limit(cpu_seconds, max_bytes)
    try:
        page = render(name).encode("utf-8", "replace")
    except BaseException:
        return IMPORT_ERROR
    if len(page) > max_bytes:
        return TOO_LARGE
    with os.fdopen(output, "wb") as stream:
        stream.write(page)
    return 0


if __name__ == "__main__":
    # Not sys.exit: threads and exit handlers of the module must not hold the process up.
    os._exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
