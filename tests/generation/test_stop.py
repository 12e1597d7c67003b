"""Stop texts: whatever way a text arrives, what is given out is the text up to the first stop."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_glm.generation.stop_strings import StopStringChecker


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("ab裤\n", max_size=4), max_size=12), st.lists(st.text("ab裤\n", min_size=1, max_size=4))
)
def test_pieces_do_not_matter(pieces, stop_strings):
    whole = "".join(pieces)
    stream = StopStringChecker(stop_strings)
    given_out = []
    end = None
    for count, piece in enumerate(pieces, 1):
        given_out.append(stream.push(piece))
        if stream.stopped:
            end = "".join(pieces[:count])
            break
    given_out.append(stream.finish())
    seen = whole if end is None else end
    places = [seen.find(stop) for stop in stop_strings if stop in seen]
    assert stream.stopped == bool(places)
    assert "".join(given_out) == stream.emitted
    if places:
        assert not any(stop in "".join(pieces[: count - 1]) for stop in stop_strings)
        assert stream.emitted == seen[: min(places)]
    else:
        assert stream.emitted == whole


@pytest.mark.parametrize(
    ("pieces", "stop_strings", "expected"),
    [(["a", "b"], [], ["a", "b", ""]), (["foo E", "ND bar"], ["END"], ["foo ", "", ""]),
     (["foo E", "N", "X"], ["END"], ["foo ", "", "ENX", ""]), (["aab"], ["ab", "aa"], ["", ""]),
     (["x\n", "y"], ["\n\n"], ["x", "\ny", ""])],
)  # fmt: skip
def test_what_is_held_back(pieces, stop_strings, expected):
    stream = StopStringChecker(stop_strings)
    assert [stream.push(piece) for piece in pieces] + [stream.finish()] == expected
