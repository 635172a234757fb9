"""A model's vocabulary in the form the runtime loads: ``tokenizer.json`` and ``vocabulary.json``.

``tokenizer.json`` is a serialization of the Hugging Face ``tokenizers`` library
(splitting rules, pieces, merges); ``vocabulary.json`` is ours and holds what that
format has no place for: special ids, token types, and the rules for adding BOS,
EOS and a leading space. Both are made from GGUF metadata alone
(``tokenizer.ggml.*``, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

from compiler.model.description import ModelDescription
from compiler.vocabulary.read import read_vocabulary
from compiler.vocabulary.serialize import tokenizer_json, vocabulary_json
from compiler.vocabulary.vocabulary import Vocabulary

__all__ = ["Vocabulary", "build_vocabulary", "read_vocabulary"]


def build_vocabulary(model: ModelDescription) -> dict[str, bytes]:
    """The bundle files of ``model``'s vocabulary, by name; the same metadata gives the same bytes.

    Raises EngineError (``vocabulary_*``) where the metadata is missing, malformed,
    absurdly large, or of a kind the engine does not tokenize.
    """
    vocabulary = read_vocabulary(model.metadata)
    return {
        "tokenizer.json": tokenizer_json(vocabulary),
        "vocabulary.json": vocabulary_json(vocabulary),
    }
