FROM python:3.13-slim AS build
COPY . /src
RUN python -m venv /opt/fluffle && \
    /opt/fluffle/bin/pip install --no-cache-dir --constraint /src/constraints.txt '/src[llm,postgres,telemetry]'

FROM python:3.13-slim
COPY --from=build /opt/fluffle /opt/fluffle
ENV PATH=/opt/fluffle/bin:$PATH FLUFFLE_STATE_DIR=/var/lib/fluffle
RUN useradd --create-home fluffle && install -d -o fluffle /var/lib/fluffle
USER fluffle
WORKDIR /home/fluffle
VOLUME /var/lib/fluffle
ENTRYPOINT ["fluffle"]
