# Servers of a model folder that is mounted at /model; docs/serving.md has the commands.
#   --target cpu   paddle-glm serve on a CPU: model folders and exported ones
#   --target gpu   paddle-glm serve on NVIDIA GPUs
#   --target cpp   paddle_glm_infer --serve: folders that `paddle-glm export` wrote, without Python

FROM debian:bookworm-slim AS base
ENV PADDLE_GLM_CACHE=/app/kernels HOME=/tmp PYTHONUNBUFFERED=1
RUN apt-get update && \
    apt-get install -y --no-install-recommends python3 libgomp1 && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --system --uid 10001 --no-create-home --home-dir /tmp paddle_glm
WORKDIR /app

# The checkout with .venv and the native CPU kernels.
FROM base AS build
RUN apt-get update && \
    apt-get install -y --no-install-recommends g++ python3-venv && \
    rm -rf /var/lib/apt/lists/*
COPY . .
RUN bash tools/setup_env.sh serve

FROM build AS build_cpu
RUN bash tools/setup_env.sh cpu,serve && .venv/bin/paddle-glm kernels

FROM build AS build_gpu
ARG PADDLE_INDEX=https://www.paddlepaddle.org.cn/packages/stable/cu126/
RUN .venv/bin/pip install --no-cache-dir paddlepaddle-gpu==3.3.1 -i "$PADDLE_INDEX"

# The program, its engine on Paddle, and the libraries of Paddle's wheel, which are looked for where they were.
FROM build_cpu AS build_cpp
RUN bash tools/setup_cpp.sh && \
    bash tools/build_cpp.sh && \
    cmake --install cpp_infer/build --prefix /opt/paddle_glm --strip

FROM base AS served
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=10m --interval=30s --timeout=10s CMD ["python3", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=5)"]
# The container's own address: what is published of it, and to whom, is for `docker run -p` to say.
ENTRYPOINT ["/app/.venv/bin/paddle-glm", "serve", "--model_path", "/model", "--host", "0.0.0.0"]

FROM served AS gpu
COPY --from=build_gpu /app /app

FROM debian:bookworm-slim AS cpp
RUN apt-get update && \
    apt-get install -y --no-install-recommends \
        libcpp-httplib0.11 libgomp1 libpython3.11 libsentencepiece0 && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --system --uid 10001 --no-create-home --home-dir /tmp paddle_glm
COPY --from=build_cpp /opt/paddle_glm /opt/paddle_glm
COPY --from=build_cpp /app/.venv/lib/python3.11/site-packages/paddle/libs \
    /app/.venv/lib/python3.11/site-packages/paddle/libs
COPY --from=build_cpp /app/.venv/lib/python3.11/site-packages/paddle/base/libpaddle.so \
    /app/.venv/lib/python3.11/site-packages/paddle/base/libpaddle.so
USER 10001
EXPOSE 8000
HEALTHCHECK --start-period=10m --interval=30s --timeout=10s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8000; printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3; grep -q ' 200 ' <&3"]
ENTRYPOINT ["/opt/paddle_glm/bin/paddle_glm_infer", "--model_dir", "/model", "--serve", "--host", "0.0.0.0"]

FROM served AS cpu
COPY --from=build_cpu /app /app
