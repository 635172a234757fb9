"""A model's vocabulary in the form the runtime loads: ``tokenizer.json`` and ``vocabulary.json``.

``tokenizer.json`` is a serialization of the Hugging Face ``tokenizers`` library
(splitting rules, pieces, merges); ``vocabulary.json`` is ours and holds what that
format has no place for: special ids, token types, and the rules for adding BOS,
EOS and a leading space. Both are made from GGUF metadata alone
(``tokenizer.ggml.*``, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

from dataclasses import replace

from compiler.model.description import ModelDescription
from compiler.vocabulary.read import MAX_PIECES, read_vocabulary
from compiler.vocabulary.serialize import tokenizer_json, vocabulary_json
from compiler.vocabulary.vocabulary import TokenType, Vocabulary
from runtime.errors import EXIT_MODEL, EngineError

__all__ = ["Vocabulary", "build_vocabulary", "read_vocabulary"]


def build_vocabulary(model: ModelDescription) -> dict[str, bytes]:
    """The bundle files of ``model``'s vocabulary, by name; the same metadata gives the same bytes.

    Where the embedding table has more rows than there are pieces (rows added to round
    its size), the further ids get unused pieces: a model may choose them, and they
    have no text. Raises EngineError (``vocabulary_*``) where the metadata is missing,
    malformed, absurdly large, or of a kind the engine does not tokenize.
    """
    vocabulary = _for_rows(read_vocabulary(model.metadata), model)
    return {
        "tokenizer.json": tokenizer_json(vocabulary),
        "vocabulary.json": vocabulary_json(vocabulary),
    }


def _for_rows(vocabulary: Vocabulary, model: ModelDescription) -> Vocabulary:
    """The vocabulary with as many ids as the token embedding has rows, where there is one."""
    table = model.tensors.get("token_embd.weight")
    n = len(vocabulary.pieces)
    if table is None or table.shape[0] == n:
        return vocabulary
    rows = table.shape[0]
    if not n < rows <= MAX_PIECES:
        raise EngineError(
            "vocabulary_invalid",
            f"the vocabulary has {n} pieces and the token embedding {rows} rows",
            path="tokenizer.ggml.tokens",
            allowed=f"a row for each piece, at most {MAX_PIECES} rows",
            exit_code=EXIT_MODEL,
        )
    more = rows - n
    known = set(vocabulary.pieces)
    names = [f"[PAD{i}]" for i in range(n, rows)]
    return replace(
        vocabulary,
        pieces=(*vocabulary.pieces, *(name if name not in known else f"{name}\x00" for name in names)),
        scores=(*vocabulary.scores, *[min(vocabulary.scores) - 1.0] * more) if vocabulary.scores else (),
        types=(*vocabulary.types, *[TokenType.UNUSED] * more),
    )
