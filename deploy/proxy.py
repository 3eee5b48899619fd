"""The only door to the SuperLink: nginx, which demands an operator's certificate for Flower's Control API.

Flower's SuperLink serves three interfaces on one port: ``/v1/fleet`` for SuperNodes, which prove themselves by their
keys; ``/v1/control`` for operators, and ``/v1/runtime`` for the processes that it starts itself, neither of which asks
who is there. So the SuperLink listens on loopback, and this proxy lets through what is on its list and nothing else.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy.addresses import Address
from deploy.pem import existing
from dsv import DsvError

_OBJECT_LIMIT = "64m"  # Flower sends arrays in objects of 5 MiB; an app's bundle has at most 10 MiB
_CONNECTIONS_PER_PEER = 256  # many devices may share an address behind a router
_LOOPBACK_NAMES = ('"localhost"', '"127.0.0.1"', '"[::1]"')
_TLS = "ssl_protocols TLSv1.2 TLSv1.3;"


@dataclass(frozen=True)
class ServerGate:
    """The proxy in front of a SuperLink.

    Args:
        certificates: the folder ``server/`` of ``dsv certs``.
        listen: public address.
        superlink: the SuperLink, on loopback.
    """

    certificates: Path
    listen: Address
    superlink: Address

    def configuration(self) -> str:
        """The http block's content."""
        to_superlink = "proxy_pass https://superlink;"
        return f"""
  limit_conn_zone $binary_remote_addr zone=peers:10m;
  upstream superlink {{ server {self.superlink}; keepalive 32; }}
  server {{
    listen {self.listen} ssl;
    ssl_certificate {self._file("server.crt")};
    ssl_certificate_key {self._file("server.key")};
    ssl_client_certificate {self._file("operators.crt")};
    ssl_verify_client optional;
    ssl_verify_depth 1;
    {_TLS}
    limit_conn peers {_CONNECTIONS_PER_PEER};
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate {self._file("authority.crt")};
    proxy_ssl_name localhost;
    location /v1/fleet/ {{ {to_superlink} }}
    location = /health {{ {to_superlink} }}
    location /v1/control/ {{
      if ($ssl_client_verify != SUCCESS) {{ return 403; }}
      {to_superlink}
    }}
    location / {{ return 404; }}
  }}"""

    def _file(self, name: str) -> str:
        return _quoted(existing(self.certificates / name))


@dataclass(frozen=True)
class OperatorGate:
    """A proxy on an operator's own machine that adds the certificate, which the ``flwr`` command cannot present.

    Args:
        certificates: the folder ``operator/`` of ``dsv certs``.
        listen: address on loopback; whoever reaches it is an operator.
        server: the public address of the ServerGate.
    """

    certificates: Path
    listen: Address
    server: Address

    def __post_init__(self) -> None:
        if not self.listen.is_loopback:
            raise DsvError(f"an operator's proxy listens on loopback only, not on {self.listen}; use 127.0.0.1")

    def configuration(self) -> str:
        """The http block's content.

        A web page of any name can have that name lead to loopback (DNS rebinding) and post there, in its visitor's
        browser; its requests name the page, by Host and by Origin, and those of ``flwr`` do not.
        """
        return f"""
  upstream gate {{ server {self.server}; keepalive 4; }}
  server {{ listen {self.listen} default_server; return 403; }}
  server {{
    listen {self.listen};
    server_name {" ".join(dict.fromkeys([*_LOOPBACK_NAMES, _in_url(self.listen.host)]))};
    if ($http_origin) {{ return 403; }}
    proxy_ssl_certificate {_quoted(existing(self.certificates / "operator.crt"))};
    proxy_ssl_certificate_key {_quoted(existing(self.certificates / "operator.key"))};
    proxy_ssl_trusted_certificate {_quoted(existing(self.certificates / "authority.crt"))};
    proxy_ssl_verify on;
    proxy_ssl_name {self._name()};
    proxy_ssl_server_name on;
    location /v1/control/ {{ proxy_pass https://gate; }}
    location = /health {{ proxy_pass https://gate; }}
    location / {{ return 404; }}
  }}"""

    def _name(self) -> str:
        """nginx compares names and no IP addresses; every certificate of this authority is for localhost too."""
        return "localhost" if self.server.is_ip else self.server.host


def write_configuration(gate: ServerGate | OperatorGate, folder: Path) -> Path:
    """Write nginx.conf into ``folder``, which nginx also takes for its temporary files, and return its path.

    Raises:
        DsvError: it cannot be written, or a certificate is missing.
    """
    path = folder / "nginx.conf"
    buffers = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"  {name}_temp_path {_quoted(folder / name)};\n" for name in buffers)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(f"""# Written by 'dsv deploy'; changes are lost.
daemon off;
pid {_quoted(folder / "nginx.pid")};
error_log stderr warn;
worker_processes 1;
worker_shutdown_timeout 5s;
events {{ worker_connections 4096; }}
http {{
{own}  access_log off;
  server_tokens off;
  client_max_body_size {_OBJECT_LIMIT};
  client_header_timeout 30s;
  client_body_timeout 120s;
  proxy_read_timeout 600s;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $host;
  proxy_request_buffering off;
  proxy_buffering off;
{gate.configuration().lstrip(chr(10))}
}}
""")
    except OSError as error:
        raise DsvError(f"cannot write {path}: {error.strerror}; name another state folder") from None
    return path


def has_nginx() -> bool:
    """Whether nginx is installed."""
    return _find_nginx() is not None


def _find_nginx() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def _nginx() -> str:
    found = _find_nginx()
    if found is None:
        raise DsvError("nginx is not installed; install it with the system's package manager (Debian: nginx-light)")
    return found


def nginx_command(configuration: Path) -> list[str]:
    """nginx in the foreground with a configuration of ours, apart from the system's own.

    Raises:
        DsvError: nginx is not installed.
    """
    return [_nginx(), "-e", "stderr", "-p", str(configuration.parent), "-c", str(configuration)]


def _in_url(host: str) -> str:
    """A host as it stands in a request, which writes IPv6 in brackets; quoted for nginx."""
    return f'"[{host}]"' if ":" in host else f'"{host}"'


def _quoted(path: Path) -> str:
    text = str(path.absolute())
    if any(c in text for c in '"\\$\n'):
        raise DsvError(f"nginx cannot take the path {text!r}; move it to one without quotes, backslashes or dollars")
    return f'"{text}"'
