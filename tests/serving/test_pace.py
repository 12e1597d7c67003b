"""The size of pieces of prompts and the estimated wait, from given times."""

import pytest

from paddle_glm.serving.pace import MAX_PIECE, MAX_WAIT_SECONDS, MIN_PIECE, PIECE_STEPS, PieceSize, QueueWait


@pytest.mark.parametrize(
    ("start", "per_token", "expected"),
    [(0.0, 0.001, 150), (0.05, 0.001, 100), (0.3, 0.001, MIN_PIECE), (0.0, 1e-5, MAX_PIECE)],
)
def test_a_piece_takes_as_long_as_its_share_of_steps(start, per_token, expected):
    """Pieces that take start + per_token * tokens seconds, beside steps of 0.1 s."""
    size = PieceSize()
    assert size.columns(1) == MIN_PIECE
    for seconds in (0.1, 0.1, 0.1, 5.0):  # once something else was slow
        size.on_step(seconds)
    found = []
    for _ in range(12):
        tokens = size.columns(1)
        assert not found or tokens <= 2 * found[-1]
        found.append(tokens)
        size.on_piece(tokens, start + per_token * tokens)
    assert found[-1] == pytest.approx(expected, abs=1)
    assert start + per_token * found[-1] <= PIECE_STEPS * 0.1 or found[-1] == MIN_PIECE
    assert size.columns(4) == found[-1] // 4
    before = size.columns(1)
    size.on_piece(2, 0.2)  # the end of a prompt: too little to tell anything
    assert size.columns(1) == before


def test_a_fixed_size_stays():
    size = PieceSize(48)
    size.on_step(0.1)
    size.on_piece(48, 100.0)
    assert size.columns(1) == size.columns(3) == 48


def test_the_wait_is_estimated_from_requests_that_ended():
    wait = QueueWait()
    assert wait.seconds(3) is None and wait.retry_after(3) == 1
    wait.on_ended(1, now=100.0, waiting=True)
    wait.on_ended(2, now=108.0, waiting=False)  # four seconds each
    wait.on_ended(1, now=900.0, waiting=True)  # nobody waited meanwhile
    assert wait.seconds(3) == 12 and wait.retry_after(3) == 12
    assert wait.retry_after(10**6) == MAX_WAIT_SECONDS
    for later in range(100):
        wait.on_ended(1, now=900.5 + 0.1 * later, waiting=True)
    assert wait.seconds(1) == pytest.approx(0.1) and wait.retry_after(1) == 1
