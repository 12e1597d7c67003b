"""The quick start: every command of the chain once, in a checkout of the repository."""
