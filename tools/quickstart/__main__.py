"""`python -m tools.quickstart`, which tools/quickstart.sh runs."""

from tools.quickstart.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
