"""Answering others: a client of the OpenAI protocol, a server of it, and web pages."""
