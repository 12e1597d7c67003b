"""Packaging: what each job needs. Exact, tested versions of everything are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def read_version() -> str:
    """The version in paddle_glm/version.py, read as text: importing would need numpy."""
    found = re.search(
        r'__version__ = "([^"]+)"', (HERE / "paddle_glm" / "version.py").read_text(encoding="utf-8")
    )
    if found is None:
        raise RuntimeError("paddle_glm/version.py holds no __version__")
    return found.group(1)


# Enough to read, convert and merge checkpoints and to tokenize: no paddle, no paddlenlp.
BASE = [
    "numpy>=1.24,<2",  # paddlenlp's own bound
    "sentencepiece>=0.1.99",
    "ml_dtypes>=0.4",
    "xxhash>=3.4",
    "tqdm>=4.65",
    "prompt_toolkit>=3.0",  # the terminal of `chat`
    "pyyaml>=6.0",
    "psutil>=5.9",  # free memory, where there is no /proc
]

# Newer releases break the import of paddlenlp 3.0.0b4; older ones unpickle what a file tells them to.
PYARROW = "pyarrow>=14.0.1,<21"

EXTRAS = {
    # The CPU wheel. On a GPU machine leave this extra out and install paddlepaddle-gpu 3.3.1 from
    # Paddle's own package index: the two wheels own the same files and must not meet.
    "cpu": ["paddlepaddle>=3.3,<3.4"],
    "train": [
        "paddlenlp==3.0.0b4",
        # Newer releases of these two break the import of paddlenlp 3.0.0b4 or its VisualDL.
        "aistudio_sdk==0.2.6",
        "protobuf<6",
        PYARROW,
        "jieba>=0.42.1",
        "rouge-chinese>=1.0.3",
        "nltk>=3.8",
        "matplotlib>=3.7",
        "visualdl>=2.5",
    ],
    # Export as ONNX, and answer from it; answering needs no Paddle.
    "onnx": ["paddle2onnx>=2.1,<2.2", "onnx>=1.16.1,<1.18", "onnxruntime>=1.17,<1.24"],  # 1.24 leaves 3.10
    "openvino": ["openvino>=2025.0,<2026"],
    # Rows in parquet files; "train" has it too.
    "parquet": [PYARROW],
    # Models by their names on Hugging Face and ModelScope.
    "hub": ["huggingface_hub>=0.34,<1", "modelscope>=1.30"],
    "serve": [
        "fastapi>=0.110",
        "fastapi-offline>=1.7",  # /docs without scripts of other hosts
        "uvicorn>=0.27",
        "httpx>=0.26",
        "prometheus-client>=0.20",
        "llguidance>=1.0",
    ],
    # Clients that the server is tested with.
    "clients": ["openai>=1.40", "langchain-openai>=0.3", "llama-index-llms-openai-like>=0.3"],
    "web": ["gradio>=4.44", "streamlit>=1.65"],
    "dev": [
        "pytest>=8",
        "pytest-xdist>=3.6",
        "hypothesis>=6.90",
        "schemathesis>=4",
        "ruff>=0.6",
        "mypy>=1.10",
        "types-PyYAML>=6.0",
        "clang-format>=18",
        "pre-commit>=3.6",
        "nbclient>=0.10",  # the notebooks' test
        "nbformat>=5.10",
        "ipykernel>=6.29",
        "playwright>=1.50",  # drives the web pages in Chromium
    ],
}

setup(
    name="paddle_glm",
    version=read_version(),
    description="ChatGLM on PaddlePaddle: finetune, merge, export and serve, on GPUs or a laptop",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["paddle_glm", "paddle_glm.*"]),
    package_data={"paddle_glm": ["py.typed", "kernels/csrc/*", "kernels/prebuilt/*/*", "doctor/*.json"]},
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["paddle-glm = paddle_glm.main:main"]},
)
