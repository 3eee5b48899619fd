"""A server's log, as one JSON object a line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

LOGGER_NAME = "feddsv.distribution"
_FIELDS = "fields"


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, event, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        line.update(getattr(record, _FIELDS, {}))
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_event(level: int, event: str, **values: object) -> None:
    """Log ``event`` with its fields."""
    logging.getLogger(LOGGER_NAME).log(level, event, extra={_FIELDS: values})
