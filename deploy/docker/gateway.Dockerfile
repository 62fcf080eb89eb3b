# The gateway as an image, for amd64 and arm64, without TensorFlow:
#   docker build -f deploy/docker/gateway.Dockerfile -t mien-gateway .
ARG BASE_IMAGE=python:3.11-slim
FROM $BASE_IMAGE AS build

# Where pip finds packages and whom it trusts, if not where it always does.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Two builds make the same files: byte code comes from one run at the end, with neither a file's time nor a random seed in it.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0

RUN python -m venv --without-pip /opt/mien
COPY deploy/docker/gateway.lock /src/
RUN pip --python /opt/mien/bin/python install --no-compile --no-deps --require-hashes --only-binary :all: -r /src/gateway.lock
COPY client /src/client
COPY gateway /src/gateway
RUN pip --python /opt/mien/bin/python install --no-compile --no-deps --no-build-isolation /src/client /src/gateway \
    && pip --python /opt/mien/bin/python uninstall --yes --quiet hatchling pathspec pluggy tomlkit trove-classifiers \
    && /opt/mien/bin/python -m compileall -qq --invalidation-mode=unchecked-hash /opt/mien/lib


FROM $BASE_IMAGE

COPY --from=build /opt/mien /opt/mien
ENV PATH=/opt/mien/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Nobody: it writes nothing.
USER 65534:65534
EXPOSE 8080
ENTRYPOINT ["mien", "gateway"]
CMD ["--host=0.0.0.0"]
