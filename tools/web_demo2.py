"""Chat in the browser with streamlit: the same as `paddle-glm web --ui streamlit`.

`streamlit run tools/web_demo2.py -- FLAGS` works too.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from paddle_glm.main import main

if __name__ == "__main__":
    # Below `streamlit run` this is no program that could exit.
    if status := main(["web", "--ui", "streamlit", *sys.argv[1:]]):
        raise SystemExit(status)
