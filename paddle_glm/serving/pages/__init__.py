"""The web pages, in gradio and streamlit."""
