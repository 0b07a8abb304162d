"""What a server may be asked, and by whom: its limits and its doors."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from nanogpt import durable
from nanogpt.decoders.protocol import Precision
from nanogpt.faults import UserError

TOKEN_VARIABLE = "NANOGPT_TOKEN"
SHORTEST_TOKEN = 16  # characters: shorter ones can be guessed
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Limits:
    """The most that is taken of a client, and of all together. Sizes in bytes, times in seconds."""

    body: int = 1 << 20
    headers: int = 16 << 10
    prompt: int = 100_000  # characters, all messages of a chat together
    max_tokens: int = 4_096
    default_tokens: int = 200
    prompts: int = 16  # in one request
    copies: int = 8  # n
    stops: int = 4
    stop_length: int = 200  # characters of a stop string
    alternatives: int = 20  # likeliest tokens that are stated with each token
    biased_tokens: int = 300  # in logit_bias
    schema: int = 10_000  # bytes of a JSON schema; one of 54,000 took 9 s, in which no other text was written
    batch: int = 64  # texts that are written together
    queue: int = 128  # requests that wait for a place in the batch
    loaded: int = 3  # models in memory
    connections: int = 512
    read_seconds: float = 10.0  # until a request's headers, and again its body, have arrived
    send_seconds: float = 30.0  # that a client may leave what was sent unread
    request_seconds: float = 300.0  # from a request's arrival to the end of its text
    drain_seconds: float = 20.0  # that running requests get once the server has to stop


@dataclass(frozen=True)
class Settings:
    """One server. `paths`: exports, trainings and workspaces, whose models it offers.

    hosts: names by which clients may address it, besides its own. origins: other sites whose pages may post to it.
    """

    paths: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 8484
    token: str | None = None
    device: str = "cpu"
    backend: str = "auto"
    precision: Precision = "float32"
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.host):
            raise UserError(
                f"--host {self.host}: others can reach this address, so a token is needed: --token-file FILE, or "
                f"{TOKEN_VARIABLE} in the environment"
            )

    @property
    def is_wildcard(self) -> bool:
        """Whether it listens on all addresses of this machine."""
        address = _address(self.host)
        return address is not None and address.is_unspecified


def token_from(file: Path | None) -> str | None:
    """The token in `file`, else in the environment; None where neither has one. Raises UserError."""
    if file is not None:
        where, token = f"--token-file {file}", durable.read_bytes(file).decode("utf-8", "replace").strip()
    elif TOKEN_VARIABLE in os.environ:
        where, token = TOKEN_VARIABLE, os.environ[TOKEN_VARIABLE].strip()
    else:
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{where}: should hold a token of {SHORTEST_TOKEN} or more letters, digits and signs in one line; "
            f"found {len(token)} characters. `openssl rand -hex 24` makes one"
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    address = _address(host)
    return host in LOOPBACK_NAMES or (address is not None and address.is_loopback)


def is_address(host: str) -> bool:
    """Whether `host` is an IP address and no name."""
    return _address(host) is not None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
