"""A listener that keeps what it hears."""

import threading


class Collector:
    """most: ends the answer after so many tokens."""

    def __init__(self, most=None):
        self.tokens, self.error, self.most = [], None, most
        self.started, self.ended = threading.Event(), threading.Event()

    def on_token(self, token, logprobs):
        self.tokens.append(token)
        self.started.set()
        return self.most is None or len(self.tokens) < self.most

    def on_finished(self):
        self.ended.set()

    def on_failed(self, error):
        self.error = error
        self.ended.set()

    def wait(self):
        """The tokens, also of an answer that failed."""
        assert self.ended.wait(60)
        return self.tokens

    def answer(self):
        assert self.ended.wait(60) and self.error is None, self.error
        return self.tokens
