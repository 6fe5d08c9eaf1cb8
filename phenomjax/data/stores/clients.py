"""obstore's clients, one a bucket or server and process, as the environment describes them."""

import functools
import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from phenomjax.data.stores import credentials
from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, GCSStore, HTTPStore, RetryConfig, S3Store

    Client: TypeAlias = S3Store | GCSStore | HTTPStore

# a server within one's own walls, which asks for no credentials; obstore wants some to write with
EMULATED = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
MAX_RETRIES = 8
STALL = "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS"  # set in phenomjax/__init__.py
# what changes a client; a process that changes one of them gets a new client
VARIABLES = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_HOST", STALL, "HOME", "GCE_METADATA")


def environment() -> tuple[tuple[str, str], ...]:
    """The variables that describe stores."""
    return tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(VARIABLES)))


def s3_endpoint() -> str | None:
    """The server instead of Amazon's, by the variables of AWS's own tools."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if os.environ.get(name):
            return os.environ[name].rstrip("/")
    return None


def google_endpoint() -> str | None:
    """The server instead of Google's, by the variable of Google's own tools."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    return host if not host or "://" in host else f"http://{host}"


def kind(scheme: str) -> credentials.Kind:
    """Where the credentials for a store come from; looked up once an environment."""
    return _kind(scheme, environment())


@functools.lru_cache(maxsize=64)
def _kind(scheme: str, described: tuple) -> credentials.Kind:
    if scheme == "s3":
        return credentials.aws_kind()
    return credentials.google_kind() if scheme == "gs" else "none"


def client(scheme: str, bucket: str, *, verified: bool = False) -> "Client":
    """The client of a bucket, or of a server of HTTP.

    Args:
      scheme, bucket: of it.
      verified: who writes compares what has arrived: its sha256 need not be signed, too.
    """
    return _client(scheme, bucket, environment(), verified)


@functools.lru_cache(maxsize=64)
def _client(scheme: str, bucket: str, described: tuple, verified: bool) -> "Client":
    from obstore.store import GCSStore, HTTPStore, S3Store

    retries: RetryConfig = {
        "max_retries": MAX_RETRIES,
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
        "retry_timeout": timedelta(minutes=3),
    }
    # a large object over a slow line takes its time; what counts is whether bytes come
    options: ClientConfig = {
        "connect_timeout": "5s",
        "read_timeout": f"{os.environ.get(STALL) or 20}s",
        "timeout": "30min",
        "allow_http": True,
    }
    if scheme == "s3":
        endpoint, region = s3_endpoint(), credentials.aws_region()
        virtual = os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower()
        if endpoint and virtual in credentials.YES:
            start, _, host = endpoint.partition("://")
            if not host.startswith(f"{bucket}."):  # obstore wants it with the bucket's name
                endpoint = f"{start}://{bucket}.{host}"
        found = kind("s3")
        if found == "profile":
            credentials.of_profile()  # an error of its own would come wrapped in obstore's
        return S3Store(
            bucket,
            config={
                **({"endpoint": endpoint, "aws_endpoint_url_s3": endpoint} if endpoint else {}),
                **({"region": region} if region else {}),
                **({"skip_signature": True} if found == "none" else {}),
                **({"unsigned_payload": True} if verified else {}),
            },
            client_options=options,
            retry_config=retries,
            credential_provider=credentials.of_profile if found == "profile" else None,
        )
    if scheme == "gs":
        endpoint = google_endpoint()
        return GCSStore(
            bucket,
            config={
                **(
                    {"service_account_key": json.dumps(EMULATED | {"gcs_base_url": endpoint})}
                    if endpoint
                    else {}
                ),
                **({"skip_signature": True} if kind("gs") == "none" and not endpoint else {}),
            },
            client_options=options,
            retry_config=retries,
        )
    if "@" in bucket:
        raise UserError(
            f"The address {scheme}://…@{bucket.partition('@')[2]} holds a password, which would end"
            " up in logs and records. Give the address without it."
        )
    return HTTPStore.from_url(f"{scheme}://{bucket}", client_options=options, retry_config=retries)
