"""Pieces joined are the whole text, and no piece ends or begins inside a character."""

from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from paddle_glm.generation.detokenizer import StreamingDetokenizer
from tests.tiny_sentencepiece import write_tiny_model

PIECES: list[SentencePieceProcessor] = []


def sentencepiece(tmp_path_factory) -> SentencePieceProcessor:
    if not PIECES:
        path = write_tiny_model(tmp_path_factory.mktemp("spm") / "tokenizer.model")
        PIECES.append(SentencePieceProcessor(model_file=str(path)))
    return PIECES[0]


def pieces_of(decode, ids, cut=lambda index: True):
    """Push ids, some together; returns the pieces and the rest."""
    stream, out, waiting = StreamingDetokenizer(decode), [], []
    for index, token in enumerate(ids):
        waiting.append(token)
        if cut(index):
            out.append(stream.push(waiting))
            waiting = []
    out.append(stream.push(waiting))
    return out, stream.finish()


def from_bytes(ids: list[int]) -> str:
    """A byte-level decoder: one broken sequence may give one mark for several bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


@settings(deadline=None)
@given(st.text(max_size=40), st.randoms())
def test_random_text_through_sentencepiece(tmp_path_factory, text, random):
    model = sentencepiece(tmp_path_factory)
    ids = model.encode(text)
    pieces, rest = pieces_of(model.decode, ids, lambda _: random.random() < 0.7)
    assert "".join(pieces) + rest == model.decode(ids)
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
        assert rest == ""


@settings(deadline=None)
@given(st.lists(st.integers(0, 399), max_size=60))
def test_any_tokens_at_all(tmp_path_factory, ids):
    """A model may emit bytes that form no character; the text is still that of decoding all at once."""
    model = sentencepiece(tmp_path_factory)
    pieces, rest = pieces_of(model.decode, ids)
    assert "".join(pieces) + rest == model.decode(ids)


@given(st.text(max_size=30))
def test_whole_characters_from_single_bytes(text):
    pieces, rest = pieces_of(from_bytes, list(text.encode()))
    assert "".join(pieces) + rest == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert [piece for piece in pieces if piece] == list(text)


def test_a_character_is_held_until_its_last_byte():
    stream = StreamingDetokenizer(from_bytes)
    assert [stream.push([byte]) for byte in "a中𠮷".encode()] == ["a", "", "", "中", "", "", "", "𠮷"]
    assert stream.push([0xE4, 0xB8]) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_spaces_between_pieces_stay(tmp_path_factory):
    model = sentencepiece(tmp_path_factory)
    ids = model.encode("the fox   jumps  over")
    pieces, rest = pieces_of(model.decode, ids)
    assert "".join(pieces) + rest == model.decode(ids) == "the fox   jumps  over"


def test_a_decoder_that_drops_all_leading_spaces():
    """As SentencePiece models with `remove_extra_whitespaces` do: tokens of spaces are no context."""
    tokens = ["a", " ", " ", "b", " ", "c"]
    pieces, rest = pieces_of(lambda ids: "".join(tokens[token] for token in ids).lstrip(" "), list(range(6)))
    assert "".join(pieces) + rest == "a  b c"


def test_cost_is_linear_even_for_bytes_that_never_become_text():
    decoded = 0

    def decode(ids):
        nonlocal decoded
        decoded += len(ids)
        return "".join("\N{REPLACEMENT CHARACTER}" if token < 0 else chr(token) for token in ids)

    for ids in ([-1] * 3000, [65] * 3000, [65, -1] * 1500):
        decoded = 0
        pieces, rest = pieces_of(decode, ids)
        assert "".join(pieces) + rest == decode(ids)
        assert decoded < 20 * len(ids)
