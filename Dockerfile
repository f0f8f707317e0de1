# The environment of every node of a cluster. On Linux the index's torch brings CUDA along, so a slim base is enough.
ARG BASE=python:3.11-slim
FROM ${BASE}

RUN useradd --create-home --uid 1000 wmtp \
    && install --directory --owner=wmtp /app /storage /opt/venv
USER wmtp
WORKDIR /app

ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    RAY_USAGE_STATS_ENABLED=0
COPY --chown=wmtp pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=wmtp wmtp_ray wmtp_ray
COPY --chown=wmtp actors actors
COPY --chown=wmtp vendor vendor
COPY --chown=wmtp configs configs
RUN python -m venv /opt/venv \
    && pip install --constraint constraints.txt --editable '.[cluster,lora]'

CMD ["ray", "start", "--head", "--block", "--dashboard-host=0.0.0.0"]
