"""Rows of data files -> conversations -> token ids, as numpy arrays; needs no Paddle."""
