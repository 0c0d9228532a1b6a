# fedattn for Raspberry Pis and PCs: arm64 and amd64, one CPU backend per generation of processors.
#
#   make image                              with docker, podman or buildah, whichever is there
#   docker build -t fedattn .               the same, with nothing fetched beforehand
#   docker buildx build --platform linux/arm64,linux/amd64 -t fedattn .
#
# Nothing runs in the last stage and the first one compiles across, so another architecture needs no emulator. Base
# images and package sources can be others: GO_IMAGE and BASE_IMAGE take a name with a digest, and a proxy, an index or
# a mirror comes as a build argument (HTTP_PROXY, GOPROXY, PIP_INDEX_URL, …). docs/docker.md has the whole of it.

ARG GO_IMAGE=golang:1.26-trixie
ARG BASE_IMAGE=debian:trixie-slim

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG TARGETARCH
ARG GOPROXY
ARG PIP_INDEX_URL
ARG JOBS
ARG LLAMA_CMAKE
ENV CCACHE_DIR=/root/.cache/ccache GOTOOLCHAIN=local
WORKDIR /src

COPY third_party/system-packages.sh third_party/
COPY deploy/image deploy/image
RUN deploy/image/stage.sh tools "$TARGETARCH"

COPY third_party/fetch-package.sh third_party/
COPY third_party/llama.cpp third_party/llama.cpp
RUN --mount=type=cache,target=/root/.cache/ccache deploy/image/stage.sh libraries "$TARGETARCH"

COPY . .
ARG VERSION=unknown
RUN --mount=type=cache,target=/root/.cache/go-build deploy/image/stage.sh program "$TARGETARCH" "$VERSION"

FROM ${BASE_IMAGE}
ARG BASE_IMAGE
ARG VERSION=unknown
LABEL org.opencontainers.image.title="fedattn" \
      org.opencontainers.image.description="Ask one question over texts that stay on several devices" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
COPY --from=build /out/ /
ENV HOME=/config FEDATTN_CONFIG=/config FEDATTN_STATUS=/tmp/fedattn HF_HUB_CACHE=/models XDG_CACHE_HOME=/models
USER 10001:10001
VOLUME ["/models", "/config"]
WORKDIR /models
EXPOSE 7843/udp
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=2m CMD ["fedattn", "health"]
ENTRYPOINT ["fedattn"]
CMD ["--help"]
