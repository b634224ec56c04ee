# docker build -t hfdbench . && docker run --rm -v "$PWD/out:/out" hfdbench run --codec hfd --codec jpeg --dataset samples --out /out
# The versions are those of constraints.txt, the ones that hfdbench is tested with.
FROM python:3.11-slim-bookworm
WORKDIR /src
COPY . .
RUN python -m pip install --no-cache-dir -c constraints.txt . && rm -rf /src
RUN useradd --create-home --uid 1000 hfdbench
USER 1000
WORKDIR /home/hfdbench
ENTRYPOINT ["hfdbench"]
CMD ["--help"]
