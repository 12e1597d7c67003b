"""One module per command of `paddle-glm`.

A module NAME.py has `HELP` (one line) and either `add_arguments(parser)` with `run(args)`, or
`run_argv(argv)` if it parses by itself. Both may return an exit code; None means 0. `paddle-glm --help`
imports all commands, so Paddle and other slow packages are imported in `run`. Modules whose name starts
with an underscore are shared by commands.
"""
