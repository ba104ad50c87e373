# The first stage installs, the second runs: no compiler, no pip of ours, no root. Every package is a wheel with its hash locked.
FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/switch
COPY requirements/run.txt requirements/run.txt
RUN /opt/switch/bin/python -m pip install --require-hashes --only-binary :all: -r requirements/run.txt
COPY pyproject.toml README.md ./
COPY switch switch
COPY messages messages
COPY acquirer_stubs acquirer_stubs
COPY migrations migrations
RUN /opt/switch/bin/python -m pip install --no-deps --no-build-isolation . \
 && /opt/switch/bin/python -m pip uninstall --yes setuptools pip

FROM python:3.11-slim
RUN groupadd --gid 10001 switch \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/switch --no-create-home --shell /usr/sbin/nologin switch \
 && install -d -m 0700 -o switch -g switch /var/lib/switch
COPY --from=build /opt/switch /opt/switch
ENV PATH=/opt/switch/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    SWITCH_HOME=/var/lib/switch SWITCH_HOST=0.0.0.0 SWITCH_PORT=8000
WORKDIR /var/lib/switch
USER 10001:10001
VOLUME /var/lib/switch
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["python", "-c", \
  "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['SWITCH_PORT']), timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["switch"]
CMD ["serve"]
