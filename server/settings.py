"""What the operator sets: flags over the environment (`DEDUP_*`) over a TOML file over the defaults. Read nowhere else."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from dedup.config import Policy
from server.errors import StartupError

__all__ = ["Settings", "SettingsError", "StartupError", "load"]

_PREFIX = "DEDUP_"


class SettingsError(StartupError, ValueError):
    """A setting is unknown or wrong; the message is one line that names it and where it was set."""


class Settings(BaseSettings):
    """How a server runs.

    model: a directory or a name on the Hugging Face hub; None is the bundled demo model. model_name: what clients call it.
    upstream: base URL of an OpenAI-compatible API that answers instead of a model in this process; no path means `/v1`.
    upstream_api_key: sent to the upstream; without it, and without `api_keys`, clients' own keys are passed on.
    api_keys: keys that clients must come with; empty lets everyone in. In the environment: separated by commas.
    max_concurrent: requests the model in this process answers at once; the others wait.
    idle_timeout_seconds: how long an upstream may say nothing.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True, protected_namespaces=())

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    model: str | None = None
    model_name: str | None = None
    upstream: str | None = None
    upstream_api_key: SecretStr | None = None
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    policy: Policy = "balanced"
    max_concurrent: Annotated[int, Field(ge=1)] = 4
    device: str | None = None
    connect_timeout_seconds: Annotated[float, Field(gt=0)] = 10.0
    idle_timeout_seconds: Annotated[float, Field(gt=0)] = 300.0
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024

    @field_validator("api_keys", mode="before")
    @classmethod
    def _separate(cls, value: object) -> object:
        return [key.strip() for key in value.split(",") if key.strip()] if isinstance(value, str) else value

    @field_validator("upstream")
    @classmethod
    def _base_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise ValueError("must be a URL such as http://127.0.0.1:8080/v1")
        return value.rstrip("/") if url.path.strip("/") else f"{url.scheme}://{url.netloc}/v1"

    @model_validator(mode="after")
    def _one_engine(self) -> "Settings":
        if self.upstream and (self.model or self.device):
            raise ValueError("upstream goes with neither model nor device: either an upstream answers or a model in this process")
        return self


def load(config_path: str | Path | None = None, **flags: Any) -> Settings:
    """The settings; a flag that is None was not given. Raises `SettingsError`."""
    flags = {name: value for name, value in flags.items() if value is not None}
    for variable in sorted(os.environ):
        if variable.upper().startswith(_PREFIX) and variable.upper().removeprefix(_PREFIX).lower() not in Settings.model_fields:
            raise SettingsError(f"{variable}: unknown setting; there is: {', '.join(Settings.model_fields)}")
    table = _read_toml(Path(config_path)) if config_path is not None else {}

    class Sourced(Settings):  # pydantic-settings takes its sources from the class
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=table)

    try:
        return Sourced(**flags)
    except ValidationError as error:
        raise SettingsError(_one_line(error, flags, config_path)) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from None  # the error names line and column


def _one_line(error: ValidationError, flags: dict[str, Any], config_path: str | Path | None) -> str:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    message = first["msg"].removeprefix("Value error, ")
    if not name:
        return message
    if name in flags:
        where = "--" + name.replace("_", "-")
    elif (variable := _PREFIX + name.upper()) in {key.upper() for key in os.environ}:
        where = variable
    else:
        where = f"{config_path}: {name}"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown setting; there is: {', '.join(Settings.model_fields)}"
    shown = "" if "key" in name else f", got {first['input']!r}"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"
