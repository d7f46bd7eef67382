"""The inference engine over one checkpoint: continuations, chat and files of prompts; no HTTP."""
