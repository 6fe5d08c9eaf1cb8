"""Which credentials the standard chains have for an object store. Only a kind leaves this file, and
secrets go from the environment or from ~/.aws into a client; none is written, logged or pickled.
"""

import configparser
import json
import os
import shlex
import socket
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from phenomjax.system.errors import UserError

if TYPE_CHECKING:
    from obstore.store import S3Credential

# where they come from; "none": asked without a signature, which public buckets allow
Kind = Literal["environment", "profile", "machine", "none"]
YES = ("1", "true", "yes", "on")
REREAD = timedelta(minutes=5)  # keys in files are renewed by other programs


def aws_kind() -> Kind:
    """Where the credentials of S3 are: environment, ~/.aws, or the machine (a role of an instance,
    a container or a Kubernetes account).
    """
    environment = os.environ
    if environment.get("AWS_SKIP_SIGNATURE", "").lower() in YES:
        return "none"
    if environment.get("AWS_ACCESS_KEY_ID"):
        return "environment"
    if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return "machine"
    if "AWS_PROFILE" in environment or _profile(_profile_name()):
        return "profile"
    container = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if any(environment.get(name) for name in container):
        return "machine"
    disabled = environment.get("AWS_EC2_METADATA_DISABLED", "").lower() in YES
    return "machine" if not disabled and _answers("169.254.169.254") else "none"


def google_kind() -> Kind:
    """Where the credentials of Google Cloud Storage are."""
    environment = os.environ
    if environment.get("GOOGLE_SKIP_SIGNATURE", "").lower() in YES:
        return "none"
    if environment.get("STORAGE_EMULATOR_HOST"):
        return "none"
    names: tuple[str, ...] = ("APPLICATION_CREDENTIALS", "SERVICE_ACCOUNT", "SERVICE_ACCOUNT_PATH")
    names += ("SERVICE_ACCOUNT_KEY", "BEARER_TOKEN")
    if any(environment.get(f"GOOGLE_{name}") for name in names):
        return "environment"
    if Path("~/.config/gcloud/application_default_credentials.json").expanduser().is_file():
        return "profile"
    return "machine" if _answers("metadata.google.internal") else "none"


def aws_region() -> str | None:
    """The region that the environment or the profile names."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if os.environ.get(name):
            return os.environ[name]
    return _profile(_profile_name()).get("region")


def of_profile() -> "S3Credential":
    """Keys of the profile in ~/.aws, as obstore asks for them, again every few minutes.

    Raises:
      UserError: there is no such profile, or it needs a program that only AWS's own tools have.
    """
    name = _profile_name()
    found = _profile(name)
    if "credential_process" in found and "aws_access_key_id" not in found:
        answer = subprocess.run(shlex.split(found["credential_process"]), capture_output=True)
        if answer.returncode:
            raise UserError(
                f"The credential_process of the profile '{name}' in ~/.aws ended with exit code"
                f" {answer.returncode}. Run it by hand to see why."
            )
        keys = json.loads(answer.stdout)
        names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        key, secret, token, expires = (keys.get(name) for name in names)
        until = datetime.fromisoformat(expires) if expires else datetime.now(UTC) + REREAD
    elif "aws_access_key_id" in found and "aws_secret_access_key" in found:
        key, secret = found["aws_access_key_id"], found["aws_secret_access_key"]
        token, until = found.get("aws_session_token"), datetime.now(UTC) + REREAD
    else:
        what = "is not there" if not found else "holds no keys (a role to assume, or a sign-on)"
        raise UserError(
            f"The profile '{name}' of AWS_PROFILE in ~/.aws {what}. Export keys with `eval $(aws"
            f" configure export-credentials --profile {name} --format env)`, or name another"
            " profile."
        )
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": until}


def _profile_name() -> str:
    return os.environ.get("AWS_PROFILE") or "default"


def _profile(name: str) -> Mapping[str, str]:
    """What ~/.aws/config and ~/.aws/credentials say of a profile; {} where there is none."""
    found: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
    ):
        parser = configparser.RawConfigParser()
        place = Path(os.environ.get(variable) or f"~/.aws/{file}").expanduser()
        try:
            parser.read(place)
        except (configparser.Error, UnicodeDecodeError) as error:
            raise UserError(
                f"{place} is not the configuration file of AWS that it should be"
                f" ({type(error).__name__}). Correct it, or name another one in {variable}."
            ) from None  # the error quotes lines, which may be keys
        if parser.has_section(section):
            found |= dict(parser.items(section))
    keys = {"aws_access_key_id", "credential_process", "role_arn", "sso_session", "sso_start_url"}
    # a file that only names a region is no source of credentials
    return found if keys & set(found) or "AWS_PROFILE" in os.environ else {}


def _answers(host: str) -> bool:
    """Whether the machine has a service of metadata: at once in a cloud, never elsewhere."""
    try:
        socket.create_connection((host, 80), timeout=1.0).close()
    except OSError:
        return False
    return True
