"""The operator's settings, and the only place where they are read.

Flags override the environment (`DEDUP_*`), which overrides a TOML file, which overrides defaults.
"""

import os
import tomllib
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as SourceError

from dedup.answer.agent_loops.ladder import Rung, read_ladder
from dedup.config import Policy
from dedup_server.errors import StartupError

__all__ = ["Settings", "SettingsError", "StartupError", "load"]

_PREFIX = "DEDUP_"
_OWN_PATHS = ("/", "/check", "/metrics", "/openapi.json", "/health/live", "/health/ready")

GoesOn = Literal["vllm", "sglang", "llamacpp", "continue_final_message", "assistant_message", "no"]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SettingsError(StartupError, ValueError):
    """Unknown or invalid settings. The message names each in a line, and where it was set."""


class UpstreamSettings(BaseModel):
    """Settings of one of several upstreams.

    Args:
        name: in metrics and logs; None is the URL's host.
        models: names that it serves, with `*` and `?` as in file names; without any, the names in
            its own list.
        goes_on: how it is asked to continue a chat completion, for healing.
            `vllm`, `sglang` or `llamacpp`; of other servers `continue_final_message` (a field that
            vLLM has) or `assistant_message` (they continue a last message of the assistant);
            `no`. None is what the owner in its list of models suggests.
        stream_upstream: request whole answers as streams; None is what `Settings` says.
        api_key_env, api_key_file: variable or file that holds its key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    name: str | None = None
    models: tuple[str, ...] = ()
    goes_on: GoesOn | None = None
    stream_upstream: bool | None = None
    api_key_env: str | None = None
    api_key_file: Path | None = None

    _key: SecretStr | None = PrivateAttr(default=None)

    @field_validator("url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        return _base_url(value)

    @model_validator(mode="after")
    def _read_key(self) -> "UpstreamSettings":
        if self.api_key_env is not None:
            value = os.environ.get(self.api_key_env)
            if not value:
                raise ValueError(
                    f"api_key_env: the environment variable {self.api_key_env} is not set"
                )
            self._key = SecretStr(value)
        elif self.api_key_file is not None:
            self._key = _only_key(self.api_key_file)
        return self

    @property
    def label(self) -> str:
        return self.name or urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def key(self) -> str | None:
        return self._key.get_secret_value() if self._key else None


class Settings(BaseSettings):
    """Settings of a server.

    Args:
        workers: processes that share the port; only in front of an upstream.
        admin_host, admin_port: address of a second port for `/metrics` and `/health`. The public
            port then serves no `/metrics`. Without a host, `host`.
        model: a directory or a name on the Hugging Face hub; None is the bundled demo model.
        model_name: name of the model for clients.
        max_concurrent: completions that the model in this process generates at once; more wait.
            None is 16, or 4 for a model that cannot be decoded in batches.
        dtype: of the weights; None is the faster of float32 and bfloat16 on the CPU, and the
            checkpoint's on a GPU.
        trust_remote_code: let the checkpoint run code of its own.
        upstream: base URL of an OpenAI-compatible API that replaces a model in this process;
            without a path, `/v1` is added.
        upstream_api_key, upstream_api_key_file: sent to the upstream. Without a key, and without
            `api_keys`, the keys of clients are passed on.
        upstreams: several of them; the requested model selects one.
        aliases: other names of models.
        stream_upstream: request whole answers from the upstream as streams, so that a loop ends at
            the upstream too.
        read_prompt: allow the repetition that a prompt asks for.
        heal: continue a looping completion differently from the onset of the loop, if the engine
            can.
        agent_loops: what is done about an agent that is about to make the same tool calls once
            more: `nudge` (ask again with a notice behind the last result), `answer` (ask again
            with `tool_choice` none), `stop` (end the turn), or several of them, which are tried in
            this order. None of them measures only.
        repeatable_tools: tools that are meant to be called again and again.
        api_keys, api_keys_file: keys that clients must send; without any, no key is required. In
            the environment they are separated by commas, in the file by line ends.
        cors_origins: origins of pages that browsers let ask the server; `*` is every one.
        forwarded_paths: paths outside `/v1` that are passed on to the upstream.
        forwarded_allow_ips: addresses and networks of reverse proxies whose `X-Forwarded-For` names
            the client; `*` is every one.
        requests_per_minute: per key, or per address if there are no keys.
        max_streams: completions in progress at once; None is what the limit of open files allows.
            All limits hold per process.
        first_token_timeout_seconds: from the request to the first byte of the response.
        idle_timeout_seconds: that an upstream may then send nothing, and a client read nothing.
        header_timeout_seconds, body_timeout_seconds: until a client must have sent its request.
        keep_alive_seconds: silence of a stream, while its text is held, behind which a comment is
            sent; 0 is never.
        shutdown_delay_seconds: from the signal to stop until the port is closed. Requests are still
            served, and `/health/ready` returns 503, so that a balancer sends no more of them.
        grace_seconds: for completions in progress when the port is closed.
        incident_log: file that records every loop, with prompt and text.
        incident_log_max_bytes: size of this file, and of the one before it.
        log_prompts: log the beginning of each request; otherwise the log holds no prompts and no
            generated text.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="forbid", frozen=True, protected_namespaces=()
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    admin_host: str | None = None
    admin_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    model: str | None = None
    model_name: str | None = None
    max_concurrent: Annotated[int, Field(ge=1)] | None = None
    device: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    trust_remote_code: bool = False
    upstream: str | None = None
    upstream_api_key: SecretStr | None = None
    upstream_api_key_file: Path | None = None
    upstreams: tuple[UpstreamSettings, ...] = ()
    aliases: dict[str, str] = {}
    stream_upstream: bool = True
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    api_keys_file: Path | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    forwarded_paths: Annotated[tuple[str, ...], NoDecode] = ()
    forwarded_allow_ips: Annotated[tuple[str, ...], NoDecode] = ()
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    policy: Policy = "balanced"
    read_prompt: bool = True
    heal: bool = True
    agent_loops: Annotated[tuple[Rung, ...], NoDecode] = ()
    repeatable_tools: Annotated[tuple[str, ...], NoDecode] = ()
    max_streams: Annotated[int, Field(ge=1)] | None = None
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    connect_timeout_seconds: Seconds = 10.0
    first_token_timeout_seconds: Seconds = 300.0
    idle_timeout_seconds: Seconds = 300.0
    total_timeout_seconds: Seconds | None = None
    keep_alive_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    header_timeout_seconds: Seconds = 30.0
    body_timeout_seconds: Seconds = 120.0
    shutdown_delay_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    grace_seconds: Annotated[float, Field(ge=2, allow_inf_nan=False)] = 25.0
    log_format: Literal["text", "json"] = "text"
    log_prompts: bool = False
    incident_log: Path | None = None
    incident_log_max_bytes: Annotated[int, Field(ge=4096)] = 64 * 1024 * 1024

    _file_keys: tuple[str, ...] = PrivateAttr(default=())

    @field_validator(
        "api_keys",
        "repeatable_tools",
        "cors_origins",
        "forwarded_paths",
        "forwarded_allow_ips",
        mode="before",
    )
    @classmethod
    def _separate(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return [key.strip() for key in value.split(",") if key.strip()]

    @field_validator("agent_loops", mode="before")
    @classmethod
    def _ladder(cls, value: object) -> object:
        return read_ladder(value)

    @field_validator("forwarded_paths")
    @classmethod
    def _outside(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not path.startswith("/") or set(path) & set("{}?#") or path.startswith("/v1/"):
                raise ValueError(f"must be paths outside /v1 such as /health, got {path!r}")
            if path in _OWN_PATHS:
                raise ValueError(f"{path} is a path of this server")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            url = urlsplit(origin)
            if origin != "*" and origin != f"{url.scheme}://{url.netloc}":
                raise ValueError(
                    f"must be * or origins such as https://chat.example, got {origin!r}"
                )
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            if network == "*":
                continue
            try:
                ip_network(network)
            except ValueError as error:
                raise ValueError(f"must be * or addresses such as 10.0.0.0/8: {error}") from None
        return value

    @field_validator("upstream")
    @classmethod
    def _base_url(cls, value: str | None) -> str | None:
        return None if value is None else _base_url(value)

    @model_validator(mode="after")
    def _fit(self) -> "Settings":
        wrong: list[str] = []
        if self.upstream and self.upstreams:
            wrong.append("upstream and upstreams: give one or the other")
        if self.all_upstreams and (self.model or self.device):
            wrong.append(
                "upstream excludes model and device: completions come from an upstream or from a"
                " model in this process"
            )
        if self.forwarded_paths and not self.all_upstreams:
            wrong.append("forwarded_paths: there is no upstream to pass them on to")
        if self.workers > 1 and not self.all_upstreams:
            wrong.append(
                "workers requires an upstream: a model would be loaded once in each process"
            )
        if self.admin_host is not None and self.admin_port is None:
            raise ValueError("admin_host requires an admin_port")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError("admin_port and port: must be two different ports")
        if self.upstream_api_key and self.upstream_api_key_file:
            wrong.append("upstream_api_key and upstream_api_key_file: give one or the other")
        labels = [one.label for one in self.all_upstreams]
        if len(set(labels)) < len(labels):
            wrong.append("upstreams: two have the same name; give each its own with name = ...")
        if wrong:
            raise ValueError("\n".join(wrong))
        if self.api_keys_file is not None:
            self._file_keys = _keys_in(self.api_keys_file)
        return self

    @property
    def client_keys(self) -> list[str]:
        """The keys of `api_keys` and `api_keys_file`."""
        return [key.get_secret_value() for key in self.api_keys] + list(self._file_keys)

    @property
    def opens_when_ready(self) -> bool:
        """Return whether the port is opened when the engine is ready.

        Until then connections are refused, so that a balancer asks another replica. A model in this
        process may load for minutes, for which `/health/live` must answer, here or at another port.
        """
        return bool(self.all_upstreams) or self.admin_port is not None

    def summary(self) -> str:
        """Return the settings in force, one per line, with keys masked."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return "\n".join(
            f"{name} = {value}" for name, value in values.items() if value not in (None, (), {})
        )

    @cached_property
    def all_upstreams(self) -> tuple[UpstreamSettings, ...]:
        """All upstreams, whether set by `upstream` or by `upstreams`."""
        if self.upstream is None:
            return self.upstreams
        one = UpstreamSettings(url=self.upstream, api_key_file=self.upstream_api_key_file)
        if self.upstream_api_key:
            one._key = self.upstream_api_key
        return (one,)


def _base_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
        raise ValueError("must be a URL such as http://127.0.0.1:8080/v1")
    if url.username or url.password:
        raise ValueError(
            "must not contain a user or password; put a key into the environment or a file"
        )
    return value.rstrip("/") if url.path.strip("/") else f"{url.scheme}://{url.netloc}/v1"


def _keys_in(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the key file {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise ValueError(f"the key file {path} holds no key")
    return keys


def _only_key(path: Path) -> SecretStr:
    keys = _keys_in(path)
    if len(keys) != 1:
        raise ValueError(f"the key file {path} must hold one key, on a line of its own")
    return SecretStr(keys[0])


def load(config_path: str | Path | None = None, **flags: Any) -> Settings:
    """Return the settings.

    Args:
        config_path: a TOML file.
        flags: settings by name; None if a flag was not given.

    Raises:
        SettingsError: a setting is unknown or invalid.
    """
    flags = {name: value for name, value in flags.items() if value is not None}
    wrong = [f"{variable}: {_unknown(Settings)}" for variable in _unknown_variables()]
    table = _read_toml(Path(config_path)) if config_path is not None else {}

    class Sourced(Settings):  # pydantic-settings reads its sources from the class
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

    settings: Settings | None = None
    try:
        settings = Sourced(**flags)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            wrong += _lines(one, flags, config_path)
    except SourceError as error:  # a list or table in the environment is not valid JSON
        wrong.append(str(error))
    if settings is None or wrong:
        raise SettingsError("\n".join(dict.fromkeys(wrong)))
    return settings


def _unknown_variables() -> list[str]:
    """Return the variables that look like settings, and are none."""
    names = [name for name in sorted(os.environ) if name.upper().startswith(_PREFIX)]
    known = {_PREFIX + name.upper() for name in Settings.model_fields}
    return [name for name in names if name.upper() not in known]


def _unknown(of: type[BaseModel]) -> str:
    return f"unknown setting; known are: {', '.join(of.model_fields)}"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from None


def _lines(error: ErrorDetails, flags: dict[str, Any], config_path: str | Path | None) -> list[str]:
    """Return an error in lines that name the setting as it was set: one of each reason."""
    name = str(error["loc"][0]) if error["loc"] else ""
    message = error["msg"].removeprefix("Value error, ")
    if not name:
        where = f"{config_path}: " if config_path else ""
        return [where + one for one in message.splitlines()]
    if name in flags:
        where = "--" + name.replace("_", "-")
    elif (variable := _PREFIX + name.upper()) in {key.upper() for key in os.environ}:
        where = variable
    else:
        where = f"{config_path}: {name}"
    inside = ".".join(map(str, error["loc"][1:]))
    where += f".{inside}" if inside else ""
    if error["type"] == "extra_forbidden":
        return [f"{where}: {_unknown(UpstreamSettings if inside else Settings)}"]
    shown = "" if "key" in where or "@" in str(error["input"]) else f", got {error['input']!r}"
    return [f"{where}: {message[0].lower()}{message[1:]}{shown}"]
