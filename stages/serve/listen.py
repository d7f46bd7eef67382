"""Where a server listens: a TCP address or a Unix socket, with or without TLS."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import stat
from contextlib import suppress
from pathlib import Path

from longcat.pipeline.errors import InputError, UsageError

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Listen on a TCP address; done before the checkpoint is loaded, so that a busy port is reported at once.

    Without `listen` two servers that start together could both bind the port, and one of them would fail only after it
    has loaded its checkpoint.

    Raises:
        InputError: no such host, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        hint = "choose another --port, or --port 0 for a free one"
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen: {reason}", where=f"{host}:{port}", hint=hint) from None
    return listener


def bind_uds(path: Path) -> socket.socket:
    """Listen on a Unix socket that only the owner and the group can use; a socket left by a dead server is replaced.

    Raises:
        InputError: another server listens there, or the path cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead(path)
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
    except (OSError, ValueError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen: {reason}", where=str(path), hint="choose another path for --uds") from None
    return listener


def _remove_dead(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()


def close(listener: socket.socket, path: Path | None = None) -> None:
    """Close a listener, and remove the file `path` of a Unix socket."""
    listener.close()
    if path is not None:
        with suppress(OSError):
            path.unlink()


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    if listener.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """Address for clients, such as `http://127.0.0.1:8000`."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS with a certificate chain and its key, both PEM; None without them.

    Raises:
        UsageError: only one of the two is given.
        InputError: a file cannot be read, or they do not belong together.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key belong together", hint="give both, or neither")
    for path in (certificate, key):
        if not path.is_file():
            raise InputError("no such file", where=str(path))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise InputError(f"the certificate or key cannot be used: {reason}", where=str(certificate)) from None
    return context


def _refuse_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")
