# humanpref serve in a container: docker build -t humanpref . && docker run -p 8000:8000 -v humanpref-cache:/cache humanpref
#
# On the CPU. For a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128, docker run --gpus all.
# There are no weights in the image: `lite` ships with the package, all others are downloaded once, into /cache.
# From other machines the service is reached without a key unless HUMANPREF_API_KEYS is set (docker run -e).
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# First what is large and changes rarely; torchvision's version follows torch's.
RUN pip install --index-url ${TORCH_INDEX} torch torchvision

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install ".[serve]" && rm -rf /src/src

RUN useradd --system --uid 10001 --create-home --home-dir /home/humanpref humanpref \
    && mkdir /cache && chown humanpref /cache
ENV HF_HOME=/cache/huggingface HUMANPREF_CACHE=/cache/scores.sqlite HUMANPREF_MODEL=lite
USER humanpref
WORKDIR /home/humanpref
VOLUME /cache
EXPOSE 8000
# What was taken in is answered first, for 30 seconds at the most: docker run --stop-timeout 40 (docker's own are 10).
STOPSIGNAL SIGTERM

# The time to load, or download, a model first is the start period's. Docker may give the container a proxy: not for this.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=4)"]

# exec: the service itself gets the signal to stop, and answers what it has taken in.
ENTRYPOINT ["sh", "-c", "exec humanpref serve --host 0.0.0.0 --port 8000 --model \"$HUMANPREF_MODEL\" \"$@\"", "humanpref"]
