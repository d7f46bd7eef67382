"""Special tokens and their fixed ids: the position in `SPECIAL_TOKENS`."""

from __future__ import annotations

UNKNOWN = "<longcat_unk>"
BEGIN = "<longcat_s>"
END = "</longcat_s>"
PAD = "<longcat_pad>"
MARKUP = ("<longcat_tool_call>", "</longcat_tool_call>", "<longcat_think>", "</longcat_think>")
ROLES = ("<longcat_system>", "<longcat_user>", "<longcat_assistant>")
SPECIAL_TOKENS = (UNKNOWN, BEGIN, END, PAD, *MARKUP, *ROLES)

BEGIN_ID, END_ID, PAD_ID = (SPECIAL_TOKENS.index(token) for token in (BEGIN, END, PAD))

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
