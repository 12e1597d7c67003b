"""One module per command of `paddle-glm`.

A module NAME.py has `HELP` (one line) and either `add_arguments(parser)` with `run(args)`, or
`run_argv(argv)` where it parses for itself. Both may return an exit code; None means 0. Importing a
command must stay cheap (`paddle-glm --help` imports them all): paddle and the like belong into `run`.
Modules whose name begins with an underscore are shared helpers, not commands.
"""
