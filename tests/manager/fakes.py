"""A stand-in for NNI's manager that answers the board page's questions, and the results of a search that never ran."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from nni_cream import page
from nni_cream.results.history import UPDATE_FORMAT

PAGE = page.files("nni_cream.page")
TYPES = {".html": "text/html", ".css": "text/css", ".js": "application/javascript"}
CHOICES: dict[str, list[Any]] = {
    f"layer_{index}": ["conv_3x3", "mbconv_k3e2", "mbconv_k5e4", "identity"] for index in range(1, 7)
}


@dataclass
class FakeManager:
    """What the manager knows; a test changes it while the page looks.

    Parameters
    ----------
    jobs
        Trial jobs, as NNI's REST API gives them.
    records
        Metric records, likewise.
    status
        Of the experiment.
    name
        Of the experiment.
    prefix
        Of all addresses, as ``urlPrefix`` sets it.
    """

    jobs: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    status: str = "RUNNING"
    name: str = "fake"
    prefix: str = ""
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        return page.page_address(self.port, self.prefix)

    @contextmanager
    def up(self) -> Iterator[FakeManager]:
        """Inside, it answers; always at the same port."""
        manager = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                manager.answer(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        content = self.content(request.path.removeprefix(f"/{self.prefix}" if self.prefix else ""))
        request.send_response(404 if content is None else 200)
        kind, body = content or ("text/plain", b"Not Found")
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def content(self, path: str) -> tuple[str, bytes] | None:
        folder, _, name = path.rpartition("/")
        if folder == "/logs" and PAGE.joinpath(name).is_file():
            return TYPES[name[name.rindex(".") :]], PAGE.joinpath(name).read_bytes()
        question = path.removeprefix("/api/v1/nni")
        if question == path:
            return None
        self.asked.append(question)
        if question == "/check-status" and self.status == "INITIALIZING":
            return "text/plain", b"INITIALIZING"
        answers = {
            "/check-status": {"status": self.status, "errors": []},
            "/experiment": {"id": "abc123", "params": {"experimentName": self.name}},
            "/trial-jobs": self.jobs,
            "/metric-data-latest": self.latest(),
        }
        answer = answers[question] if question in answers else self.of_trial(name)
        return "application/json", json.dumps(answer).encode()

    def of_trial(self, trial: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["trialJobId"] == trial]

    def latest(self) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for record in self.records:
            before = found.get(record["trialJobId"])
            if before is None or record["sequence"] >= before["sequence"]:
                found[record["trialJobId"]] = record
        return list(found.values())


def job(
    number: int, status: str = "RUNNING", role: str = "search", final: Any = None, **parameters: Any
) -> dict[str, Any]:
    """A trial job, with an id made of its number."""
    search = {"score": "top1", "cost": "macs", "board_size": 10, "epochs": 50, "warmup": 1}
    config = {
        "search": {**search, "matching": {"name": "meta", "arguments": {}}, "teaching": {"start": 0.5}},
        "retrain": {"top": 2},
    }
    found = {
        "trialJobId": f"trial{number}",
        "sequenceId": number,
        "status": status,
        "hyperParameters": [json.dumps({"parameters": {"role": role, **parameters, "config": config}})],
    }
    return found | ({"finalMetricData": [{"data": json.dumps(json.dumps(final))}]} if final else {})


def record(trial: int, sequence: int, metric: Any, timestamp: int | None = None) -> dict[str, Any]:
    """A metric record: JSON within JSON, as NNI keeps it."""
    return {
        "timestamp": sequence if timestamp is None else timestamp,
        "trialJobId": f"trial{trial}",
        "type": "PERIODICAL",
        "sequence": sequence,
        "data": json.dumps(json.dumps(metric)),
    }


def made_up_search(
    updates: int, scored: int, *, choices: dict[str, list[Any]] | None = None, seed: int = 0, size: int = 10
) -> list[dict[str, Any]]:
    """Metrics of a search as `nni_cream.manager.trial` reports them: plausible numbers, none of them measured."""
    choices = CHOICES if choices is None else choices
    draw = random.Random(seed)
    board: list[list[Any]] = []
    metrics = []
    admitted = total = step = 0
    for epoch in range(1, updates + 1):
        candidates = []
        for _ in range(scored):
            step += 10
            path = [draw.randrange(len(options)) for options in choices.values()]
            if any(entry[0] == path for entry in board):
                continue
            cost = float(20_000 + sum(place * 17_321 + 911 * label for label, place in enumerate(path)))
            accuracy: float | None = 0.9 * (1 - 0.97 ** (epoch / 4 + 1)) + draw.uniform(-0.15, 0.1)
            evicted = None
            enters = len(board) < size or (accuracy or 0) > board[-1][1] + 0.01
            if enters:
                evicted = board.pop()[0] if len(board) == size else None
                board.append([path, accuracy, cost, step])
                board.sort(key=lambda entry: -entry[1])
            elif draw.random() < 0.1:
                accuracy = None
            candidates.append([path, accuracy, cost, step, enters, evicted])
            admitted += enters
        total += len(candidates)
        metrics.append(_metric(epoch, step, board, candidates, total, admitted, draw))
        metrics[-1]["update"]["predictor"] = _predictor(candidates, choices)
    metrics[0]["update"]["choices"] = choices
    return metrics


def _predictor(candidates: Sequence[list[Any]], choices: dict[str, list[Any]]) -> dict[str, Any]:
    gains = [
        [round(0.4 - 0.8 * place / len(options) - 0.05 * row, 4) for place in range(len(options))]
        for row, options in enumerate(choices.values())
    ]
    predicted = [round(sum(own[place] for own, place in zip(gains, path, strict=True)), 4) for path, *_ in candidates]
    return {"problem": None, "gains": gains, "stds": [[0.1] * len(row) for row in gains], "predicted": predicted}


def _metric(
    epoch: int,
    step: int,
    board: Sequence[list[Any]],
    candidates: list[list[Any]],
    total: int,
    admitted: int,
    draw: random.Random,
) -> dict[str, Any]:
    accuracies = [entry[1] for entry in board]
    return {
        "default": accuracies[0],
        "role": "search",
        "epoch": epoch,
        "step": step,
        "admitted": float(admitted),
        "board_best": accuracies[0],
        "board_cost_mean": sum(entry[2] for entry in board) / len(board),
        "board_mean": sum(accuracies) / len(board),
        "board_size": float(len(board)),
        "board_worst": accuracies[-1],
        "joint_loss": 2 / epoch,
        "match_weight": draw.uniform(0.45, 0.6),
        "meta_updates": 2.0,
        "sampler_drawn": 10.0 * len(candidates),
        "sampler_rejected": 3.0,
        "scored": float(total),
        "train_acc": accuracies[0],
        "train_loss": 2 / epoch,
        "val_acc": accuracies[0],
        "val_loss": 2 / epoch,
        "update": {
            "format": UPDATE_FORMAT,
            "epoch": epoch,
            "step": step,
            "board": [list(entry) for entry in board],
            "scored": candidates,
            "teachers": [[entry[0], 7 - rank] for rank, entry in enumerate(board[:6])],
        },
    }
