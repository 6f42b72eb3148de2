"""Programs of others that are measured where they are installed: how they are configured and started.

The rule: each is set up as its makers advise for speed, does no more than it must, and writes only into its place.
"""

import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from benchmarks import questions
from benchmarks.place import Place

_BUFFER = "4m"  # the largest body that is asked, twice over

_NGINX = """\
{user}worker_processes 1;
worker_rlimit_nofile 20000;
daemon off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 15000; }}
http {{
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  keepalive_requests 100000000;
  client_max_body_size 0;
  client_body_buffer_size {buffer};
  upstream benchmark {{ server {upstream}; keepalive 1024; keepalive_requests 100000000; }}
  {http}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://benchmark;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_read_timeout 1h;
      {location}
    }}
  }}
}}
"""
_STREAMED = "proxy_buffering off;"
_CACHE = "proxy_cache_path cache keys_zone=recordings:10m inactive=1h max_size=10g;"
_CACHED = """\
proxy_cache recordings;
      proxy_cache_methods POST;
      proxy_cache_key $request_uri$request_body;
      proxy_cache_valid 200 1h;
      proxy_buffer_size 16k; proxy_buffers 16 16k;"""

_LITELLM = """\
model_list:
  - model_name: gpt-4o-mini
    litellm_params:
      model: openai/gpt-4o-mini
      api_base: {upstream_url}
      api_key: sk-benchmark
general_settings:
  master_key: {key}
litellm_settings:
  cache: true
  cache_params:
    type: local
  telemetry: false
"""


def nginx(place: Place, *, caches: bool = False) -> Sequence[str]:
    """A plain proxy that streams, or one that keeps answers by the body they were asked with."""
    config = place.directory / "nginx.conf"
    config.write_text(
        _NGINX.format(
            # Its worker would else be nobody, and could not write here.
            user="user root;\n" if os.geteuid() == 0 else "",
            buffer=_BUFFER,
            upstream=place.upstream_url.removeprefix("http://").removesuffix("/v1"),
            port=place.port,
            http=_CACHE if caches else "",
            location=_CACHED if caches else _STREAMED,
        )
    )
    return nginx_program() or "nginx", "-p", str(place.directory), "-c", str(config), "-e", "error.log"


@lru_cache
def nginx_program() -> str | None:
    # Debian keeps it where only root's PATH looks.
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def litellm(program: Path, place: Place) -> Sequence[str]:
    config = place.directory / "litellm.yaml"
    config.write_text(_LITELLM.format(upstream_url=place.upstream_url, key=questions.KEY.decode()))
    return str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port)
