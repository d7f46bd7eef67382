"""An OpenAI-compatible HTTP server with a chat page, and the hand-over to other engines."""
