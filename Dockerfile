# One node of a kingbus cluster. Mount a configuration at /etc/kingbus/kingbus.yaml (its data-dir
# should be /var/lib/kingbus) and a volume at /var/lib/kingbus.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY kingbus ./kingbus
RUN python -m venv /opt/kingbus && /opt/kingbus/bin/pip install --no-cache-dir .

FROM python:3.12-slim
RUN groupadd --system --gid 999 kingbus \
    && useradd --system --uid 999 --gid kingbus --home-dir /var/lib/kingbus --no-create-home kingbus \
    && install --directory --owner=kingbus --group=kingbus --mode=0700 /var/lib/kingbus \
    && install --directory --mode=0755 /etc/kingbus
COPY --from=build /opt/kingbus /opt/kingbus
ENV PATH=/opt/kingbus/bin:$PATH PYTHONUNBUFFERED=1
USER kingbus
VOLUME /var/lib/kingbus
# Admin API, metrics, replicas; the peer port is the one in the configuration's peer-url.
EXPOSE 9595 2728 3390
STOPSIGNAL SIGTERM
ENTRYPOINT ["kingbus"]
CMD ["run", "--config", "/etc/kingbus/kingbus.yaml"]
