# tilth with PyTorch for processors, as a user without rights.
#   docker build -t tilth . && docker run --rm -v "$PWD:/texts" tilth demo
# --build-arg PIP_EXTRA_INDEX_URL=… with PyTorch's index of builds for processors leaves out some gigabytes of CUDA.
FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
RUN pip install --no-cache-dir build==1.6.1
COPY . .
RUN python -m build --wheel --outdir /dist

FROM python:3.12-slim-bookworm
# The compiler makes the kernels for the processor at hand; without one tilth runs, slower.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 tilth
COPY constraints.txt /tmp/constraints.txt
ARG PIP_EXTRA_INDEX_URL=
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt torch numpy
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt /tmp/dist/*.whl \
 && python -m compileall -q /usr/local/lib/python3.12/site-packages/tilth
USER 1000
WORKDIR /texts
ENTRYPOINT ["tilth"]
CMD ["--help"]
