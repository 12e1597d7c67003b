"""What requests and answers look like: OpenAI's protocol and THUDM's."""
