"""What streamlit runs for `web_streamlit.run`."""

from paddle_glm.serving.pages.web_streamlit import show_configured_page

if __name__ == "__main__":
    show_configured_page()
