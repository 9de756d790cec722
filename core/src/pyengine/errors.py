"""Every error that leaves a public function of pyengine.

::

    EngineError                       500  exit 125
    |- InvalidParameter               400  exit 125   the request itself is wrong
    |- Unauthorized                   401  exit 125
    |- Forbidden                      403  exit 125
    |- NotFound                       404  exit 125
    |- Conflict                       409  exit 125   true request, wrong moment
    |- NotModified                    304  exit 0     nothing to do
    |- Unsupported                    501  exit 125   a driver cannot honour an option
    |- Unavailable                    503  exit 125   not now, or not in this engine
    |- ConfigError                    500  exit 1     daemon.json or flags
    |- StartError                     400  exit 127 or 126: the container's command
    `- DriverError                    500  exit 1
       |- DriverMissing               400  exit 1     no installed package has that name
       |- DriverDuplicate             500  exit 1     two packages offer one name
       |- DriverBroken                500  exit 1     fails to import, or breaks its contract
       |- DriverUnavailable           500  exit 1     this host lacks what it needs
       `- DriverWedged                503  exit 1     a call missed its deadline

A message has three parts: ``brief`` (what happened), ``detail`` (the evidence) and ``help``
(what would mend it). Only ``brief`` is required. The API sends ``message()``; Docker's clients
print it as it is.
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of the tree; raised itself only for what nobody foresaw."""

    status: int = 500
    exit_code: int = 125

    def __init__(self, brief: str, detail: str = "", help: str = "") -> None:
        super().__init__(brief, detail, help)
        self.brief = brief
        self.detail = detail
        self.help = help

    def message(self) -> str:
        """One line: ``brief: detail (help)``."""
        text = self.brief
        if self.detail:
            text += ": " + self.detail
        if self.help:
            text += f" ({self.help})"
        return text

    def __str__(self) -> str:
        return self.message()


class InvalidParameter(EngineError):
    status = 400


class Unauthorized(EngineError):
    status = 401


class Forbidden(EngineError):
    status = 403


class NotFound(EngineError):
    status = 404


class Conflict(EngineError):
    status = 409


class NotModified(EngineError):
    status = 304
    exit_code = 0


class Unsupported(EngineError):
    status = 501


class Unavailable(EngineError):
    status = 503


class ConfigError(EngineError):
    exit_code = 1


class StartError(EngineError):
    """The container's command could not be executed. ``exit_code`` is 127 (not found) or 126."""

    status = 400

    def __init__(self, brief: str, detail: str = "", help: str = "", exit_code: int = 127) -> None:
        super().__init__(brief, detail, help)
        self.exit_code = exit_code


class DriverError(EngineError):
    exit_code = 1


class DriverMissing(DriverError):
    status = 400


class DriverDuplicate(DriverError):
    pass


class DriverBroken(DriverError):
    pass


class DriverUnavailable(DriverError):
    pass


class DriverWedged(DriverError):
    status = 503
