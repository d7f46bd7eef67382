"""A small OpenAI-compatible server that does what a test asks for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Event = dict[str, Any] | str


@dataclass
class FakeServer:
    """Answers with `max_tokens` tokens; a word of a prompt has two tokens, and every prompt three more.

    `statuses` are the answers to the first requests; the others are complete. After `answered` requests, answers pause
    before their last event until `release` is set.
    """

    key: str | None = None
    usage: bool = True
    statuses: list[int] = field(default_factory=list)
    stream: Callable[[list[Event]], list[Event]] = lambda events: events
    received: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    answered: int = 1000
    release: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def events(self, path: str, body: dict[str, Any]) -> list[Event]:
        chat = path.endswith("chat/completions")
        number = body["max_completion_tokens" if chat else "max_tokens"]
        start: list[Event] = [_chat({"role": "assistant", "content": ""})] if chat else []
        tokens = [_chat({"content": " a"}) if chat else {"choices": [{"text": " a"}]} for _ in range(number)]
        end = _chat({}, "stop") if chat else {"choices": [{"text": "", "finish_reason": "length"}]}
        events = [*start, *tokens, end]
        if self.usage and body.get("stream_options", {}).get("include_usage"):
            prompt = body["messages"][0]["content"] if chat else body["prompt"]
            length = len(prompt) if isinstance(prompt, list) else 2 * len(prompt.split()) + 3
            details = {"cached_tokens": 1}
            counts = {"prompt_tokens": length, "completion_tokens": number, "prompt_tokens_details": details}
            events.append({"choices": [], "usage": counts})
        return self.stream([*events, "[DONE]"])


def _chat(delta: dict[str, Any], finish: str | None = None) -> Event:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None}


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self._allowed():
                self._answer(200, {"data": [{"id": "fake-model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with server.lock:
                server.received.append(body)
                status = server.statuses.pop(0) if server.statuses else 200
            if status != 200:
                self._answer(status, {"error": {"message": f"status {status}"}})
            elif self._allowed():
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("connection", "close")
                self.end_headers()
                waits = len(server.received) > server.answered
                for event in server.events(self.path, body):
                    if waits and event == "[DONE]":
                        server.release.wait(10)
                    text = event if isinstance(event, str) else json.dumps(event)
                    self.wfile.write(f": comment\r\n\r\ndata: {text}\n\n".encode())

        def _allowed(self) -> bool:
            if server.key is None or self.headers.get("authorization") == f"Bearer {server.key}":
                return True
            self._answer(401, {"error": {"message": "wrong key"}})
            return False

        def _answer(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


@contextmanager
def running(server: FakeServer) -> Iterator[FakeServer]:
    """Run a fake server on a free port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        server.url = f"http://127.0.0.1:{listener.server_port}"
        try:
            yield server
        finally:
            server.release.set()
            listener.shutdown()
            thread.join()
