"""Running requests, for the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse

from paddle_glm.generation import GenerationOutput
from paddle_glm.generation.sampling import TokenLogprobs
from paddle_glm.serving.batching.generation_request import GenerationRequest
from paddle_glm.serving.batching.streaming import StreamEvent, TextPiece
from paddle_glm.serving.batching.tokenizing import Tokenizing

Emit = Callable[[StreamEvent], None]
Submit = Callable[[Emit], GenerationRequest]


class Answer:
    """What one choice of a response has gathered."""

    def __init__(self) -> None:
        self.output: GenerationOutput | None = None
        self.logprobs: list[TokenLogprobs] = []

    @property
    def result(self) -> GenerationOutput:
        """The output, once there is one."""
        assert self.output is not None
        return self.output


class RequestHandle:
    """The requests of one HTTP request: one for each of its choices."""

    def __init__(self) -> None:
        self.requests: list[GenerationRequest] = []
        self._events: asyncio.Queue[tuple[int, StreamEvent]] = asyncio.Queue()

    @classmethod
    async def submit(cls, prepare: Callable[[], Sequence[Submit]], tokenizing: Tokenizing) -> "RequestHandle":
        """Submit what `prepare` makes, both by `tokenizing`: prompts are rendered and tokenized there.

        Raises what they raise, before the first byte of a response; none of the requests goes on then.
        """
        handle, loop = cls(), asyncio.get_running_loop()

        def emitter(index: int) -> Emit:
            def emit(event: StreamEvent) -> None:
                loop.call_soon_threadsafe(handle._events.put_nowait, (index, event))

            return emit

        def submit_all() -> None:
            for index, submit in enumerate(prepare()):
                handle.requests.append(submit(emitter(index)))

        try:
            await tokenizing.run(submit_all)
        except BaseException:
            handle.cancel()
            raise
        return handle

    def cancel(self) -> None:
        for request in self.requests:
            request.cancel()

    async def stream(self) -> AsyncIterator[tuple[int, TextPiece | GenerationOutput]]:
        """Yield (choice, piece of text) and, once for each choice, its output.

        Raises the exception that generation failed with.
        """
        running = len(self.requests)
        while running:
            index, event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield index, event
            running -= isinstance(event, GenerationOutput)

    async def wait(self, request: Request) -> list[Answer] | None:
        """The answers; None if the client disconnects first, which cancels generation."""
        answers = [Answer() for _ in self.requests]

        async def gather() -> None:
            async for index, event in self.stream():
                if isinstance(event, GenerationOutput):
                    answers[index].output = event
                else:
                    answers[index].logprobs += event.logprobs

        async def client_disconnect() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        completed, disconnected = asyncio.create_task(gather()), asyncio.create_task(client_disconnect())
        try:
            await asyncio.wait({completed, disconnected}, return_when=asyncio.FIRST_COMPLETED)
            if not completed.done():
                return None
            completed.result()
            return answers
        finally:
            self.cancel()
            completed.cancel()
            disconnected.cancel()


class CancellingStreamingResponse(StreamingResponse):
    """A streaming response that cancels generation when it ends, for whatever reason."""

    def __init__(self, handle: RequestHandle, content: AsyncIterator[bytes]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.handle = handle

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.handle.cancel()
