"""Settings: environment variables over `fluffle.toml` over defaults.

Every field is the variable `FLUFFLE_<FIELD>` and the key `<field>` of the table `[fluffle]`. A variable
`FLUFFLE_<FIELD>_FILE` names a file that holds the value, for secrets.
"""

import logging
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from broker.errors import ConfigurationError
from broker.protocol.primitives import MAX_BODY_BYTES, Name, problems

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

PREFIX = "FLUFFLE_"
_NO_SETTINGS = re.compile(
    "RABBITMQ_SERVER|TASK_ID|ATTEMPT|TOOLS|MESSAGE_ID|CONVERSATION_ID|CRASH_AT|(TEST|BENCH|COMPLETE)(_.*)?"
)
"""Other variables with the prefix that Fluffle and its tests use."""

_log = logging.getLogger(__name__)


def default_state_dir() -> Path:
    """Return the user's folder for data: `$XDG_STATE_HOME/fluffle`, else `~/.local/state/fluffle`."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "fluffle"


def _url_path(prefix: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", prefix):
        raise ValueError("must be a path such as /fluffle")
    return prefix


class Settings(BaseSettings):
    """The settings of all parts of Fluffle. Durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    amqp_url: SecretStr | None = Field(
        None, description="RabbitMQ as amqp://user:password@host:port/vhost; unset: the private node"
    )
    amqp_password: SecretStr | None = Field(
        None, description="password of the user that amqp_url names, if it is not in there"
    )
    tls_ca: Path | None = Field(
        None, description="file of CA certificates that RabbitMQ's may be signed by; unset: those of this computer"
    )
    tls_cert: Path | None = Field(None, description="file of the client certificate to show to RabbitMQ")
    tls_key: Path | None = Field(None, description="file of its key, unless that is in the same file")
    tls_login: bool = Field(False, description="the client certificate is enough to log in, without a password")
    management_url: SecretStr | None = Field(
        None,
        description="RabbitMQ's management API, http://user:password@host:port, for `fluffle broker grant`; "
        "unset: port 15672 of the host of amqp_url (15671 with TLS), as the same user",
    )
    require_identity: bool = Field(
        False, description="refuse messages that do not say, by user_id, which user of RabbitMQ they are from"
    )
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="folder of the private node, the database and the spools",
    )
    database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL, sqlite:///… or postgresql+psycopg://…; unset: fluffle.db in the state folder",
    )
    lease: float = Field(15.0, ge=1, le=3600, description="seconds of silence after which an instance loses its tasks")
    leader_lease: float = Field(
        5.0, ge=1, le=600, description="seconds after which a standby takes over from a silent coordinator"
    )
    policy: str = Field(
        "earliest-finish",
        description="policy: earliest-finish, cheapest-in-time, round-robin, least-loaded, random or pkg.mod:function",
    )
    suggest_skills: bool = Field(
        False, description="give a task without skills and assignee those that its text suggests (docs/assignment.md)"
    )
    learn_quality: bool = Field(
        True, description="let what reviews and votes find about an LLM count when tasks are assigned"
    )
    user: Name | None = Field(None, description="who sends and gets messages here; unset: the login name")
    max_body: int = Field(
        MAX_BODY_BYTES, ge=1024, description="largest accepted message body in bytes; the same everywhere"
    )
    batch: int = Field(
        1000, ge=1, le=100_000, description="most messages that the coordinator handles in one transaction"
    )
    web: bool = Field(True, description="whether `fluffle up` runs the web page too")
    web_host: str = Field("127.0.0.1", description="address that the web page listens at")
    web_port: int = Field(8480, ge=0, le=65_535, description="its port; 0: any that is free")
    web_prefix: Annotated[str, AfterValidator(_url_path)] | None = Field(
        None, description="path under which a proxy shows it, such as /fluffle"
    )
    web_token: SecretStr | None = Field(
        None, min_length=16, description="token of operators; unset: one that is made and kept in the state folder"
    )
    web_password_file: Path | None = Field(
        None, description="people who may log in, as `fluffle web passwd` writes them; in place of the tokens"
    )
    web_login: bool = Field(True, description="false: nobody is asked for a login; only where host is 127.0.0.1")
    metrics_host: str = Field("127.0.0.1", description="address that metrics and health are served at")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="port of /metrics, /healthz and /readyz of coordinator and worker, or the next one that is free; "
        "0: any; unset: none of them",
    )
    traces: bool = Field(False, description="whether spans are sent, to where OpenTelemetry's variables say")
    stall_timeout: float = Field(
        120.0, ge=1, le=86_400, description="seconds without a byte after which a worker gives up a model's answer"
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(str.upper)] = Field(
        "INFO", description="least level that is logged"
    )

    @property
    def tls_parameters(self) -> dict[str, str]:
        """The TLS query parameters of an AMQP URL, by name."""
        given = {"cacertfile": self.tls_ca, "certfile": self.tls_cert, "keyfile": self.tls_key}
        files = {name: str(file) for name, file in given.items() if file is not None}
        return files | ({"auth_mechanism": "external"} if self.tls_login else {})

    @property
    def beat(self) -> float:
        """The seconds between two heartbeats of a worker."""
        return self.lease / 3

    @property
    def database(self) -> "str | URL":
        """The database URL with its password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        from sqlalchemy.engine import URL

        return URL.create("sqlite", database=str(self.state_dir / "fluffle.db"))  # in a text, "?" would end the path

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: environment, `*_FILE`, values from fluffle.toml, defaults."""
        return env_settings, InitSettingsSource(settings_cls, _values_of_files()), init_settings


def _values_of_files() -> dict[str, Any]:
    values = {}
    for field in Settings.model_fields:
        variable = f"{PREFIX}{field.upper()}_FILE"
        if path := os.environ.get(variable):
            try:
                values[field] = Path(path).read_text(encoding="utf-8-sig").strip()
            except OSError as error:
                raise ConfigurationError(f"{variable}: cannot read {path}: {error.strerror}") from error
    return values


def load_settings(table: dict[str, Any] | None = None, path: Path | None = None) -> Settings:
    """Load the settings: the environment, then `table`, the `[fluffle]` table of the TOML file at `path`.

    Raises ConfigurationError, which names every invalid variable and key.
    """
    if mistyped := [*_mistyped_variables()]:
        raise ConfigurationError("; ".join(mistyped))
    for name in sorted(_unknown_variables()):
        _warn_of_unknown(name)
    try:
        return Settings(**(table or {}))
    except ValidationError as error:
        wrong = (f"{_origin(problem.path, path)}: {problem.message}" for problem in problems(error))
        raise ConfigurationError("; ".join(wrong)) from error


def _origin(field: str, path: Path | None) -> str:
    """Return the variable, or the key of the file, from which the value of a setting comes."""
    variable = f"{PREFIX}{field.upper()}"
    given = (name for name in (variable, f"{variable}_FILE") if os.environ.get(name))
    return next(given, f"{path}: fluffle.{field}")


def _known_variables() -> list[str]:
    """Return the variables of all settings, without the prefix."""
    return [f"{field.upper()}{ending}" for field in Settings.model_fields for ending in ("", "_FILE")]


def _unknown_variables() -> set[str]:
    """Return the variables with the prefix that are not settings, without the prefix."""
    own = {name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX)}
    return {name for name in own - {*_known_variables()} if name and not _NO_SETTINGS.fullmatch(name)}


def _mistyped_variables() -> Iterator[str]:
    """Return an error for each unknown variable whose name is similar to a setting."""
    for name in sorted(_unknown_variables()):
        if near := get_close_matches(name, _known_variables(), n=1, cutoff=0.75):
            yield f"{PREFIX}{name}: there is no such setting; did you mean {PREFIX}{near[0]}?"


@cache
def _warn_of_unknown(name: str) -> None:
    """Warn once that a variable has no effect."""
    near = get_close_matches(name, _known_variables(), n=1)
    hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; see docs/settings.md for all settings"
    _log.warning("%s%s is not a setting and has no effect%s", PREFIX, name, hint)
