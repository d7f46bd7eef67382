"""Load tests of OpenAI-compatible servers."""
