"""The web pages, in gradio and streamlit."""

import os

# Gradio otherwise sends telemetry, from its import on.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
