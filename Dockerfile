# One image for every part of Trivet; the command says which: scheduler, worker, flower, serve, db upgrade.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/trivet
ENV PATH=/opt/trivet/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml README.md LICENSE requirements.txt ./
COPY tasks tasks
COPY store store
COPY routing routing
COPY scheduler scheduler
COPY worker worker
COPY api api
COPY simulator simulator
# requirements.txt holds the versions of everything, the tools of developers too: here it only says which version
RUN pip install --no-cache-dir --constraint requirements.txt ".[worker,ops,serve]"

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /srv/trivet trivet
COPY --from=build /opt/trivet /opt/trivet
ENV PATH=/opt/trivet/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /srv/trivet
ENTRYPOINT ["trivet"]
CMD ["--help"]
