"""Other dialects than OpenAI's chat and text completions, each translated into one of those.

docs/dialects.md says what each of their fields becomes.
"""
