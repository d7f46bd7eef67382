"""Ids and bytes of single tokens for generation."""

from __future__ import annotations

from longcat.stages.inference.tokenizer import TAG_MARK, EngineTokenizer


def test_text_with_special_tokens_is_parsed_on_request(tokenizer: EngineTokenizer) -> None:
    plain = tokenizer.encode("</longcat_s>a")
    assert not tokenizer.added_ids & set(plain)
    assert tokenizer.encode("</longcat_s>a", parse_special=True) == [2, *tokenizer.encode("a")]


def test_marked_bytes_tell_tags_from_their_text(tokenizer: EngineTokenizer) -> None:
    tag = "<longcat_think>"
    (number,) = tokenizer.encode(tag, parse_special=True)
    assert tokenizer.marked_bytes(number).decode() == TAG_MARK + tag
    assert b"".join(map(tokenizer.marked_bytes, tokenizer.encode(tag))).decode() == tag
    assert tokenizer.token_bytes(number).decode() == tag
    assert tokenizer.marked_bytes(2) == b""


def test_chats_take_tools_and_variables(tokenizer: EngineTokenizer) -> None:
    messages = [{"role": "user", "content": "a"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    thinking = tokenizer.encode_chat(messages, tools, enable_thinking=True)
    assert tokenizer.literal_text(thinking).startswith("## Tools")
    assert tokenizer.literal_text(thinking).endswith("ASSISTANT:<longcat_think>\n")
    assert len(tokenizer.encode_chat(messages)) < len(thinking)
