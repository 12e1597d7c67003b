"""Stop texts: whatever way a text arrives, what is given out is the text up to the first stop."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_glm.generation.stop import StopTexts


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab裤\n", max_size=4), max_size=12), st.lists(st.text("ab裤\n", min_size=1, max_size=4))
)
def test_pieces_do_not_matter(pieces, stops):
    whole = "".join(pieces)
    stream = StopTexts(stops)
    given_out = []
    end = None
    for count, piece in enumerate(pieces, 1):
        given_out.append(stream.push(piece))
        if stream.met:
            end = "".join(pieces[:count])
            break
    given_out.append(stream.finish())
    seen = whole if end is None else end
    places = [seen.find(stop) for stop in stops if stop in seen]
    assert stream.met == bool(places)
    assert "".join(given_out) == stream.given
    if places:
        assert not any(stop in "".join(pieces[: count - 1]) for stop in stops)
        assert stream.given == seen[: min(places)]
    else:
        assert stream.given == whole


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [(["a", "b"], [], ["a", "b", ""]), (["foo E", "ND bar"], ["END"], ["foo ", "", ""]),
     (["foo E", "N", "X"], ["END"], ["foo ", "", "ENX", ""]), (["aab"], ["ab", "aa"], ["", ""]),
     (["x\n", "y"], ["\n\n"], ["x", "\ny", ""])],
)  # fmt: skip
def test_what_is_held_back(pieces, stops, expected):
    stream = StopTexts(stops)
    assert [stream.push(piece) for piece in pieces] + [stream.finish()] == expected
