# The web page and the HTTP API (`affectnet serve`) on a CPU, without PyTorch.
#
#   docker build -t affectnet .
#   docker run --rm -p 127.0.0.1:7860:7860 -e AFFECTNET_PASSWORD=... affectnet
#
# Flags of `affectnet serve` follow the name of the image. docs/serve.md describes both.

FROM python:3.11-slim AS build
WORKDIR /source
COPY . .
# The environment gets no pip of its own, so no build tool is left in it.
RUN python -m venv --without-pip /opt/affectnet \
 && python -m pip --python /opt/affectnet install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:3.11-slim
RUN python -m pip uninstall --yes pip \
 && useradd --uid 1000 --create-home affectnet
COPY --from=build /opt/affectnet /opt/affectnet
ENV PATH=/opt/affectnet/bin:$PATH PYTHONUNBUFFERED=1
USER affectnet
WORKDIR /home/affectnet
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health', timeout=4)"]
ENTRYPOINT ["affectnet", "serve", "--host", "0.0.0.0"]
