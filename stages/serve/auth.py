"""API keys of a server: read once, compared as bytes in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from starlette.requests import Request

from longcat.pipeline.errors import InputError, UsageError
from longcat.stages.serve.errors import ApiError

KEY_VARIABLE = "LONGCAT_API_KEY"
MAX_KEY_FILE_BYTES = 1 << 20
MAX_KEYS = 1024
NAME_CHARACTERS = 12


def gather_keys(given: Sequence[str], file: Path | None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The keys of a server: those given and those in `file`, otherwise the one in the environment.

    Raises:
        UsageError: a key is empty or cannot be sent in a header.
        InputError: the file cannot be read, is too large or holds no key.
    """
    keys = [checked_key(key, "--api-key") for key in given]
    if file is not None:
        keys += _read_keys(file)
    if not keys and KEY_VARIABLE in environment:
        keys = [checked_key(environment[KEY_VARIABLE], KEY_VARIABLE)]
    if len(keys) > MAX_KEYS:
        raise UsageError(f"{len(keys)} API keys were given, at most {MAX_KEYS} are allowed")
    return list(dict.fromkeys(keys))


def checked_key(key: str, where: str) -> str:
    """`key` without the white space around it.

    Raises:
        UsageError: it is empty or cannot be sent in a header.
    """
    plain = key.strip()
    if not plain:
        raise UsageError(f"{where} is empty, which would leave the server open", hint="set a key, or leave it out")
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in plain):
        raise UsageError(f"{where} contains a control character, which no header can contain", hint="use another key")
    return plain


def _read_keys(file: Path) -> list[str]:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_KEY_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"the API keys cannot be read: {error.strerror}", where=str(file)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start})", where=str(file)) from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise InputError(f"larger than {MAX_KEY_FILE_BYTES} bytes", where=str(file))
    lines = [line.strip() for line in text.splitlines()]
    keys = [checked_key(line, str(file)) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise InputError("holds no API key", where=str(file), hint="write one key per line")
    return keys


class KeyRing:
    """A set of keys; `name_of` finds the one that a request has sent."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key.encode("utf-8", "surrogateescape")) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, given: bytes) -> str | None:
        """Name of the key equal to `given`: the start of its digest. None for any other text.

        Digests have equal length and all of them are compared, so that the time tells nothing about a key.
        """
        digest = _digest(given)
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:NAME_CHARACTERS] if any(found) else None


def key_check(keys: Sequence[str]) -> Callable[[Request], Awaitable[None]]:
    """Dependency that accepts requests with one of `keys`, or all requests if there are no keys.

    It sets `request.state.client_key`: the name of the key, otherwise the client's address.
    """
    ring = KeyRing(keys)

    async def check(request: Request) -> None:
        if not ring:
            request.state.client_key = request.client.host if request.client else ""
            return
        name = ring.name_of(_bearer(request))
        if name is None:
            raise ApiError(
                401,
                "a valid key is required: Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        request.state.client_key = name

    return check


def _bearer(request: Request) -> bytes:
    header = next((value for name, value in request.scope["headers"] if name == b"authorization"), b"")
    scheme, _, given = bytes(header).partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else b""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
