"""Continuous batching: the scheduler, its cache memory and prefixes, and a client's hold on its request."""
