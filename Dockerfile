FROM python:3.13-slim

RUN useradd --create-home fluffle && install -d -o fluffle /var/lib/fluffle
WORKDIR /opt/fluffle
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[llm,postgres]'

USER fluffle
WORKDIR /home/fluffle
ENV FLUFFLE_STATE_DIR=/var/lib/fluffle
VOLUME /var/lib/fluffle
ENTRYPOINT ["fluffle"]
