"""Take the pictures of the web pages in docs/images, in headless Chromium, with answers from a script.

pip install -c constraints.txt -e ".[web,dev]"
apt-get install chromium fonts-noto-cjk
python benchmarks/page_screenshots.py [--output_dir docs/images]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("chatglm2-6b", "advert-lora")
QUESTIONS = ("类型#上衣*样式#风衣*图案#印花", "用 Python 写一个快速排序")
SORTING = """递归地划分，平均复杂度为 \\(O(n \\log n)\\)：

```python
def quick_sort(values):
    if len(values) < 2:
        return values
    first, *rest = values
    less = [v for v in rest if v < first]
    more = [v for v in rest if v >= first]
    return quick_sort(less) + [first] + quick_sort(more)
```
"""
ANSWERS = {
    (QUESTIONS[0], MODELS[0]): "您好，您给出的是一件**印花风衣**的属性。请问您想了解什么？",
    (QUESTIONS[0], MODELS[1]): "这款风衣采用印花图案，色彩明快，上身显得俏皮而不失优雅，轻松穿出时尚感。",
}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 960, "height": 720}},
    "phone": {"viewport": {"width": 390, "height": 720}, "color_scheme": "dark"},
}


class ScriptedServer(BaseHTTPRequestHandler):
    """Answers OpenAI's protocol from `ANSWERS`."""

    def log_message(self, format: str, *values: Any) -> None:
        pass

    def do_GET(self) -> None:
        data = [{"id": name, "parent": MODELS[0] if name != MODELS[0] else None} for name in MODELS]
        self._send("application/json", json.dumps({"data": data}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = ANSWERS.get((body["messages"][-1]["content"], body["model"]), SORTING)
        chunk = {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
        self._send("text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")

    def _send(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def started_page(ui: str, server_port: int) -> Iterator[str]:
    """The address of `paddle-glm web` over the scripted server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_port
    api_base = f"http://127.0.0.1:{server_port}/v1"
    command = [sys.executable, "-m", "paddle_glm.main", "web", "--ui", ui, "--api_base", api_base]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(address).is_success:
                    break
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=60)


def use_gradio(page: Any) -> None:
    box = page.get_by_placeholder("输入内容")
    box.fill(QUESTIONS[1])
    box.press("Enter")
    page.locator(".katex").first.wait_for()
    page.wait_for_timeout(1500)
    page.get_by_label("对比").click()
    page.get_by_role("option", name=MODELS[1]).click()
    page.wait_for_timeout(1000)
    box.fill(QUESTIONS[0])
    box.press("Enter")
    page.get_by_text("穿出时尚感").wait_for()


def use_streamlit(page: Any) -> None:
    box = page.get_by_test_id("stChatInputTextArea")
    box.fill(QUESTIONS[1])
    box.press("Enter")
    page.get_by_role("button", name="重新生成").wait_for()
    expand = page.get_by_test_id("stExpandSidebarButton")
    if is_hidden := expand.is_visible():
        expand.click()
    page.get_by_test_id("stSelectbox").nth(1).locator("input").click()
    page.get_by_role("option", name=MODELS[1]).click()
    page.get_by_text("不对比").wait_for(state="detached")
    if is_hidden:
        page.get_by_test_id("stSidebarCollapseButton").locator("button").click()
    page.wait_for_timeout(1000)
    box.fill(QUESTIONS[0])
    box.press("Enter")
    page.get_by_text("穿出时尚感").wait_for()
    page.get_by_role("button", name="重新生成").wait_for()


PAGES: dict[str, Callable[[Any], None]] = {"gradio": use_gradio, "streamlit": use_streamlit}


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "docs" / "images")
    output = parser.parse_args().output_dir
    output.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), ScriptedServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        for ui, use in PAGES.items():
            with started_page(ui, server.server_port) as address:
                for name, look in LOOKS.items():
                    page = browser.new_context(**look).new_page()
                    page.goto(address)
                    use(page)
                    page.wait_for_timeout(2000)  # for scrolling to come to rest
                    file = output / f"web_{ui}_{name}.png"
                    page.screenshot(path=file)
                    print(f"{file}: {file.stat().st_size} bytes")
        browser.close()
    server.shutdown()


if __name__ == "__main__":
    main()
