"""The size of pieces of prompts and the estimated wait, from given times."""

import math

import pytest

from paddle_glm.serving.batching.pace import MAX_WAIT_SECONDS, IdlePieceSize, PieceSize, QueueWait


@pytest.mark.parametrize(
    ("start", "per_token", "expected"),
    [(0.0, 0.001, 128), (0.05, 0.001, 96), (0.3, 0.001, 32), (0.0, 0.02, 6), (0.0, 1e-5, 512)],
)
def test_a_piece_takes_as_long_as_its_share_of_steps(start, per_token, expected):
    """Pieces that take start + per_token * tokens seconds, beside steps of 0.1 s."""
    size = PieceSize()
    for seconds in (0.1, 0.1, 0.1, 5.0):  # once something else was slow
        size.on_step(seconds)
    found = []
    for _ in range(40):
        found.append(size.columns(1))
        size.on_piece(found[-1], start + per_token * found[-1])
    assert found[20:] == [expected] * 20
    # Tried once too large.
    assert sum(tokens > expected for tokens in found) <= 2
    assert size.columns(3) == math.ceil(expected / 3)
    size.on_piece(2, 9.0)  # the end of a prompt: too little to tell anything
    assert size.columns(1) == expected


def test_pieces_follow_what_the_machine_does():
    size = PieceSize()
    found = []
    for step in (0.1, 0.4, 0.02):  # few rows, many, few again
        for _ in range(300):
            size.on_step(step)
            found.append(size.columns(1))
            size.on_piece(found[-1], 0.001 * found[-1])
        assert max(found[-60:]) == {0.1: 192, 0.4: 512, 0.02: 32}[step]
        assert sorted(found[-60:])[30] == {0.1: 128, 0.4: 512, 0.02: 24}[step]


@pytest.mark.parametrize(
    ("start", "per_token", "expected"),
    [
        (0.0, 0.001, 512),  # 0.51 s
        (0.0, 0.07, 32),  # int4 of a 6B: small pieces cost no more
        (9.0, 0.14, 1024),  # reading the weights: 512 tokens would take 6 % more
        (0.5, 0.01, 512),  # 5.6 s, where 256 tokens each would take 9 % more
        (0.01, 1e-5, 65536),  # 0.67 s
    ],
)
def test_an_idle_piece_takes_a_second_or_wastes_no_time(start, per_token, expected):
    size, found = IdlePieceSize(), []
    for _ in range(200):
        found.append(size.columns(1))
        size.on_piece(found[-1], start + per_token * found[-1])
        size.on_piece(40, start + per_token * 40)  # another prompt
    assert sorted(found)[100] == expected
    # Other sizes are tried once in a while.
    assert sum(tokens != expected for tokens in found) < 20
    assert size.columns(3) == -(-size.columns(1) // 3)


def test_prompts_may_end_before_a_piece_does():
    size, found = IdlePieceSize(), []
    for _ in range(60):
        left = 1900
        while left:
            found.append(min(left, size.columns(1)))
            size.on_piece(found[-1], 0.0012 * found[-1])
            left -= found[-1]
    assert sorted(found)[len(found) // 2] == 512 and found.count(1900) == 0


def test_idle_pieces_follow_what_the_machine_does():
    size = IdlePieceSize()
    for per_token, expected in ((0.001, 512), (0.01, 64), (0.0005, 1024)):
        for _ in range(100):
            size.on_piece(size.columns(1), per_token * size.columns(1))
        assert size.columns(1) == expected


@pytest.mark.parametrize("kind", [PieceSize, IdlePieceSize])
def test_a_fixed_size_stays(kind):
    size = kind(48)
    if kind is PieceSize:
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
