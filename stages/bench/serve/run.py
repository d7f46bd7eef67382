"""A load test from the first contact to the summary."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator

import httpx

from longcat.pipeline.errors import InputError
from longcat.pipeline.progress import Progress
from longcat.stages.bench.serve.client import Client, Record
from longcat.stages.bench.serve.load import closed_loop, number_of_requests, open_loop
from longcat.stages.bench.serve.options import LoadOptions
from longcat.stages.bench.serve.prompts import (
    Prompt,
    RandomText,
    as_prompt,
    random_ids,
    random_texts,
    read_prompts,
    words_for,
)
from longcat.stages.bench.serve.summary import Summary, summarize

# Most words of the two requests that measure how many tokens a word has.
MAX_PROBE = 64


def run_load(options: LoadOptions, progress: Progress) -> tuple[LoadOptions, Summary]:
    """Run a load test; returns the options with the model that was used.

    A few requests of one token come first: they show that the server answers, and how many tokens a random word has.

    Raises:
        InputError: the server cannot be reached, refuses these requests or has no model; or the prompts are unusable.
    """
    return asyncio.run(_run(options, progress))


async def _run(options: LoadOptions, progress: Progress) -> tuple[LoadOptions, Summary]:
    from_file = read_prompts(options, options.prompts) if options.prompts else None
    client = Client(options)
    async with client.http:
        if options.model is None:
            client.options = options = dataclasses.replace(options, model=await _first_model(client))
        prompts = await _prompts(client, from_file)
        with progress.task("load test", total=number_of_requests(options), unit="requests") as bar:
            start = time.perf_counter()
            if options.rate is None:
                records = await closed_loop(client, prompts, lambda _: bar.advance())
            else:
                records = await open_loop(client, options.rate, prompts, lambda _: bar.advance())
            seconds = time.perf_counter() - start
    return options, summarize(records, seconds)


async def _first_model(client: Client) -> str:
    where = f"{client.options.base}/models"
    try:
        response = await client.http.get(where)
    except httpx.HTTPError as error:
        raise _refused(client, Record(0, error="connection", detail=str(error))) from error
    if response.status_code != 200:
        raise _refused(client, Record(0, error=str(response.status_code), detail=response.reason_phrase))
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError("the server lists no model", where=where, hint="name one with --model") from error


async def _prompts(client: Client, from_file: Iterator[Prompt] | None) -> Iterator[Prompt]:
    options = client.options
    if from_file is not None:
        first = next(from_file)
        await _probe(client, first)
        return (prompt for prompts in ([first], from_file) for prompt in prompts)
    if options.vocabulary is not None:
        ids = random_ids(options.vocabulary, options.prompt_tokens, options.seed)
        await _probe(client, {"prompt": next(ids)["prompt"][:1]})
        return ids
    return random_texts(options.api, await _words(client), options.seed)


async def _words(client: Client) -> int:
    """Words of a prompt with the wanted number of tokens, as far as the server counts them."""
    options = client.options
    text = RandomText(options.seed + 1)
    measured = []
    most = min(max(2, options.prompt_tokens // 4), MAX_PROBE)  # words may have several tokens each
    for words in (most // 2, most):
        record = await _probe(client, as_prompt(text.words(words), options.api))
        if record.prompt_tokens is None:
            return options.prompt_tokens
        measured.append((words, record.prompt_tokens))
    return words_for(options.prompt_tokens, *measured)


async def _probe(client: Client, prompt: Prompt) -> Record:
    record = await client.send(client.body(prompt, 1), time.perf_counter())
    if record.error is not None:
        raise _refused(client, record)
    return record


def _refused(client: Client, record: Record) -> InputError:
    """Why the first request failed, and what to do."""
    options = client.options
    what, hint = {
        "connection": (f"cannot connect: {record.detail}", "is the server running, and is this its address?"),
        "timeout": (record.detail, "--timeout gives it more time"),
        "stream": (f"not a stream of the OpenAI API: {record.detail}", None),
        "401": (f"the API key was refused: {record.detail}", "--api-key, or LONGCAT_API_KEY in the environment"),
        "404": (f"not found: {record.detail}", "is this the address of an OpenAI API, and --model one of its models?"),
    }.get(str(record.error), (f"the first request was answered with {record.error}: {record.detail}", None))
    return InputError(what, where=options.path, hint=hint)
