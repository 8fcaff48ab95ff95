# The HTTP service with the packaged model of photographs:
#   docker build -t segic .
#   docker run -p 127.0.0.1:8080:8080 -e SEGIC_TOKEN=... -v segic_contexts:/contexts segic
FROM python:3.13-slim

RUN useradd --create-home --uid 10001 segic && install --directory --owner segic /contexts
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY segic_jax segic_jax
COPY configs configs
COPY examples examples
# The package is this folder: it has no version to pin.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[serve]' && rm -rf /src/*

USER 10001
WORKDIR /home/segic
VOLUME /contexts
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
# An address that others reach needs a token: SEGIC_TOKEN, or --token-file with a mounted file.
ENTRYPOINT ["segic", "serve", "--host", "0.0.0.0", "--folder", "/contexts"]
