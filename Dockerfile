# docker build -t rcan .                              # for a CPU
# docker build -t rcan --build-arg VARIANT=gpu .      # for an NVIDIA GPU
FROM python:3.12-slim-trixie AS base

FROM base AS build
ARG VARIANT=cpu
ENV VIRTUAL_ENV=/opt/rcan
WORKDIR /src
COPY pyproject.toml setup.cfg README.md LICENSE ./
COPY rcan rcan
RUN case "$VARIANT" in \
        cpu) extras=bioio,hub,movie,zarr ;; \
        gpu) extras=bioio,hub,movie,zarr,gpu ;; \
        *) echo "error: VARIANT is $VARIANT: cpu or gpu is expected." >&2; exit 1 ;; \
    esac && \
    python -m venv --without-pip "$VIRTUAL_ENV" && \
    python -m pip --python "$VIRTUAL_ENV/bin/python" install --no-cache-dir ".[$extras]"

FROM base
LABEL org.opencontainers.image.title="rcan" \
      org.opencontainers.image.description="Restores three-dimensional fluorescence microscopy images" \
      org.opencontainers.image.licenses="BSD-3-Clause"
COPY --from=build /opt/rcan /opt/rcan
# Any user may run it, also one without a name: HOME and USER are for libraries that ask. The driver of a GPU is asked
# for its libraries (compute) and for nvidia-smi (utility).
ENV PATH=/opt/rcan/bin:$PATH \
    HOME=/tmp \
    USER=rcan \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /data
USER 1000:1000
ENTRYPOINT ["rcan"]
CMD ["--help"]
