"""What an object store's error means to its user: one paragraph, without a word of the credentials.

The texts of clients are read here and never shown: they may quote headers and signed addresses.
"""

import os
import re
from typing import Literal

from phenomjax.data.stores.credentials import aws_region
from phenomjax.system.errors import EXIT_CONFIG, EXIT_FAILED, UserError

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE with a profile in ~/.aws, or a"
    " machine with a role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or a machine"
    " with a service account",
}
Why = Literal[
    "credentials",
    "denied",
    "no bucket",
    "region",
    "unreachable",
    "timeout",
    "TLS",
    "name",
    "answer",
]


class StoreError(UserError):
    """A store that does not give or take what it should.

    Attributes:
      why: in a word.
    """

    def __init__(self, message: str, why: Why, exit_code: int = EXIT_CONFIG):
        super().__init__(message, exit_code)
        self.why = why

    def __reduce__(self):
        return type(self), (self.args[0], self.why, self.exit_code)


class NotThere(StoreError, FileNotFoundError):
    """No such object in a bucket that is there, as far as the store tells."""


def explain(url: str, error: Exception, signed: bool = True) -> StoreError | None:
    """The StoreError for an exception of a client; None if it is none of a store."""
    text, scheme = str(error), url.partition(":")[0]
    ours = type(error).__module__.partition(".")[0] == "obstore"
    # obstore's own FileNotFoundError has no number
    ours |= isinstance(error, FileNotFoundError) and error.errno is None
    if isinstance(error, ValueError) and "Could not parse path" in text:
        return StoreError(
            f"{url} has a part that names of objects cannot have here ('..' or '.'). Correct it.",
            "answer",
        )
    if ours and type(error).__name__ == "InvalidPathError":
        named = re.search(r'Path "(.*?)"(?: contained|: Encountered)', text, re.DOTALL)
        name = f", {named[1]!r}" if named else ""
        return StoreError(
            f"{url} has an object whose name cannot be used here{name}:"
            " a part of it is empty, '.' or '..', or has a control character, so that no folder"
            " could hold it. Move that object elsewhere, or name a folder without it.",
            "name",
        )
    if not ours and not (isinstance(error, ValueError | OSError) and _of_tensorstore(text)):
        return None
    status = re.search(r"status code: (\d{3})|http_response_code='(\d{3})'", text)
    number = int(status[1] or status[2]) if status else 0
    code = (re.search(r"<Code>(\w+)</Code>", text) or ["", ""])[1]
    said = ", ".join(filter(None, [str(number or ""), code]))
    bucket, server = url.split("/")[2], _server(url)
    # the chain of credentials ended at the metadata service of a machine that has none
    if re.search(r"169\.254\.169\.254|metadata\.google|token request|computeMetadata", text):
        return StoreError(
            f"{url} cannot be asked for: there are no credentials. Give {CREDENTIALS[scheme]}; for"
            f" a public bucket set {_public(scheme)}=true.",
            "credentials",
        )
    if found := re.search(r"Missing(AccessKeyId|SecretAccessKey)", text):
        half = {"AccessKeyId": "AWS_ACCESS_KEY_ID"}.get(found[1], "AWS_SECRET_ACCESS_KEY")
        return StoreError(
            f"{url} cannot be asked for: of the two keys in the environment {half} is missing. Set"
            " it too, or unset the other.",
            "credentials",
        )
    region = _region(text)
    if number in (301, 307) or "Received redirect" in text or region:
        region = region or _ask_region(bucket, server)
        mend = f"set AWS_REGION={region}" if region else "set AWS_REGION to that of the bucket"
        return StoreError(
            f"The bucket of {url} is in another region ({region or 'not named'}) than the one that"
            f" was asked ({aws_region() or 'none is set, so us-east-1'}): {mend}.",
            "region",
        )
    if code in ("ExpiredToken", "TokenRefreshRequired", "RequestExpired"):
        return StoreError(
            f"{url}: the credentials have expired ({said}). Renew them ({CREDENTIALS[scheme]}) and"
            " run the same command again.",
            "credentials",
        )
    if code == "RequestTimeTooSkewed":
        return StoreError(
            f"{url}: the store refuses the signature because the clock of this machine is wrong"
            f" ({said}). Set the clock (`timedatectl set-ntp true`) and run the command again.",
            "denied",
        )
    if number in (401, 403) or type(error).__name__ in (
        "PermissionDeniedError",
        "UnauthenticatedError",
    ):
        return _denied(url, scheme, said or "403", code, signed)
    if not signed and number == 400:
        return _denied(url, scheme, said, code, signed)
    if number == 400:  # of HEAD it is all that comes
        return StoreError(
            f"{url}: the store does not understand the request ({said}). Most often the credentials"
            f" have expired, or the bucket is in another region: renew them, or set AWS_REGION."
            if scheme == "s3"
            else f"{url}: the store does not understand the request ({said}).",
            "denied",
        )
    if code == "NoSuchBucket" or (number == 404 and not isinstance(error, FileNotFoundError)):
        return StoreError(
            f"{url}: there is no bucket '{bucket}' at {server} ({said}). Check its name, and the"
            f" endpoint{' in AWS_ENDPOINT_URL' if scheme == 's3' else ''}.",
            "no bucket",
        )
    if isinstance(error, FileNotFoundError):
        return NotThere(
            f"There is no {url} (404). Check the name; a copy to it may not have ended.", "answer"
        )
    if re.search(r"certificate|InvalidContentType|Tls|TLS|SSL", text):
        return StoreError(
            f"{url}: no secure connection to {server}: its certificate is not one that this machine"
            " trusts, or it does not speak TLS. For a store within your own walls set the endpoint"
            " as http://…, or put its authority's certificate into the system's store"
            " (`SSL_CERT_FILE`).",
            "TLS",
        )
    if "BadScheme" in text:
        return StoreError(f"{url}: {server} is not an address of a store.", "unreachable")
    if re.search(r"dns error|tcp connect|Connect|onnection refused|resolve host", text):
        return StoreError(
            f"{url}: {server} cannot be reached from this machine"
            f"{' (its name is unknown)' if re.search('dns error|resolve host', text) else ''}."
            " Check the endpoint, the network and its proxy (HTTPS_PROXY); then run the same"
            " command again.",
            "unreachable",
            EXIT_FAILED,
        )
    if re.search(r"timed out|TimedOut", text):
        return StoreError(
            f"{url}: {server} stopped answering, and tries after that failed too. Run the same"
            " command again when it answers; TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS is how long a"
            " silent connection is waited for.",
            "timeout",
            EXIT_FAILED,
        )
    what = f"answered {said}" if said else "broke off its answers"
    return StoreError(
        f"{url}: {server} {what}, also when asked again several times. Run the same command again"
        " later; what is done stays done.",
        "answer",
        EXIT_FAILED,
    )


def _denied(url: str, scheme: str, said: str, code: str, signed: bool) -> StoreError:
    if scheme not in CREDENTIALS:
        return StoreError(f"{url}: the server refuses to give it ({said}).", "denied")
    if not signed:
        return StoreError(
            f"{url} was asked for without credentials, and the store refuses that ({said}). Give"
            f" {CREDENTIALS[scheme]}.",
            "credentials",
        )
    if code in ("SignatureDoesNotMatch", "InvalidAccessKeyId"):
        cause = "the keys are wrong"
    else:
        cause = (
            "these credentials may not do that here, or the keys are wrong; where listing is not"
            " allowed, a name that does not exist is refused too"
        )
    return StoreError(
        f"{url}: the store refuses ({said}): {cause}. Credentials come from {CREDENTIALS[scheme]},"
        " in that order.",
        "denied",
    )


def _public(scheme: str) -> str:
    return "AWS_SKIP_SIGNATURE" if scheme == "s3" else "GOOGLE_SKIP_SIGNATURE"


def _server(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme == "s3":
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        found = next((os.environ[n] for n in names if os.environ.get(n)), "s3.amazonaws.com")
        return re.sub("//[^/]*@", "//…@", found)  # a password
    if scheme == "gs":
        return os.environ.get("STORAGE_EMULATOR_HOST") or "storage.googleapis.com"
    return rest.partition("/")[0]


def _region(text: str) -> str | None:
    """The region that an answer of S3 names."""
    named = re.search(r"<Region>([a-z0-9-]+)</Region>", text) or re.search(
        r"<Endpoint>[^<]*?s3[.-]([a-z]{2}-[a-z-]+-\d)\.amazonaws", text
    )
    return named[1] if named else None


def _ask_region(bucket: str, server: str) -> str | None:
    """S3 names the region of any bucket to anyone in a header."""
    import http.client  # with ssl, which costs a start more than all of this file

    secure, host = not server.startswith("http://"), server.partition("://")[2] or server
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host.rstrip("/"), timeout=5)
    try:
        connection.request("HEAD", f"/{bucket}")
        return connection.getresponse().getheader("x-amz-bucket-region")
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _of_tensorstore(text: str) -> bool:
    return bool(re.search(r"http_response_code|CURL|\bhttps?://", text))
