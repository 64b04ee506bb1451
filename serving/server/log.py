"""The server's log: one JSON object a line, on standard error."""

import json
import logging
import sys
import time
from typing import TextIO

__all__ = ["JsonFormatter", "write_log"]


class JsonFormatter(logging.Formatter):
    """Formats a record as JSON, so that no text of a client can begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def write_log(stream: TextIO | None = None) -> logging.Handler:
    """Write the records of the server and of uvicorn, and return the handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, level in (("diffoundry.serving", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
    return handler
