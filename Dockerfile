# An image for the CPU: docker build -t metarl . && docker run --rm -it -v "$PWD/runs:/home/metarl/runs" metarl
FROM python:3.11-slim-bookworm

# MuJoCo renders without a screen through EGL. Debian removes old versions of packages, so that pinned
# ones could not be installed later.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri libgles2 \
    && rm -rf /var/lib/apt/lists/*
ENV MUJOCO_GL=egl

COPY . /opt/metarl
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir "/opt/metarl[all]" \
    && useradd --create-home --uid 1000 metarl

USER 1000
WORKDIR /home/metarl
CMD ["metarl", "--help"]
