"""Other stores than this disk, as fsspec opens them by URL; what their libraries raise is told in one plain error.

Keys, region and endpoint come from the environment, as a store's own tools take them (AWS_ACCESS_KEY_ID, AWS_PROFILE,
AWS_ENDPOINT_URL, …). No secret is ever shown, and neither a password nor a signature may stand in a URL, which params.yaml,
dvc.lock and logs would keep.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Stores of objects in buckets. Asked for a folder, they would make its bucket, though its name be misspelt."""
KEYS = "keys are taken from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
SERVER = "does the server run, and is AWS_ENDPOINT_URL (without one, AWS_DEFAULT_REGION) right?"
REMEDIES = {
    "NoCredentialsError": KEYS,
    "PartialCredentialsError": KEYS,
    "ProfileNotFound": KEYS,
    "EndpointConnectionError": SERVER,
    "ConnectTimeoutError": SERVER,
    "ReadTimeoutError": SERVER,
    "NoRegionError": SERVER,
    "SSLError": "AWS_CA_BUNDLE names the certificates that are trusted",
    "PermissionError": f"these keys may not, or are no longer valid; {KEYS}",
    "FileNotFoundError": "is the name right? buckets are not made here",
}
"""What mends an error, by its class's name: the classes are of libraries that only users of such a store have."""
PASSWORD = re.compile(r"://(?!arn:)[^/@]*:(?!\d+(/|$)).*@")
"""A URL with one; a port is none, nor is an S3 access point."""
SIGNATURE = re.compile(r"[?&](x-amz-[\w-]+|sig|signature|[\w-]*token|[\w-]*key)=", re.IGNORECASE)
"""A URL that whoever has it may use."""
SECRETS = re.compile("SECRET|TOKEN|PASSWORD|PASSWD|KEY$|CREDENTIAL|CONNECTION_STRING")
"""In the name of an environment variable whose value is not shown."""


def opened(url: str) -> tuple[Any, str]:
    """The store of `url`, and the path in it.

    Raises:
        ValueError: it cannot be opened, is a place within a place, or holds a password or a signature.
    """
    scheme = url.partition("://")[0]
    if PASSWORD.search(url) or SIGNATURE.search(url):
        raise ValueError(
            f"a URL ({scheme}://…) holds a password or a signature, which params.yaml, dvc.lock and logs would keep; take it "
            f"out, and give it by the environment: as AWS's tools take it, or FSSPEC_{scheme.upper()}_PASSWORD"
        )
    if "::" in url:
        raise ValueError(f"{shown(url)} names a place within a place; name the file or folder itself")
    from fsspec.core import url_to_fs  # here, for few words are URLs

    try:
        # Without a store of instances: a listing of an hour ago is no listing.
        store, root = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{shown(url)} cannot be opened: {shown(str(error))}; S3 needs the extra: pip install -c constraints.txt -e '.[s3]'"
        ) from error
    return store, root.rstrip("/")


@contextlib.contextmanager
def told(url: str, doing: str) -> Iterator[None]:
    """Have what the store of `url` raises meanwhile come as `ValueError`: `url` cannot be … (`doing`), why, and what mends it.

    Only calls of the store belong here: their libraries' errors have no base in common, so all there are are taken.
    """
    try:
        yield
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        remedy = next((f"; {REMEDIES[kind]}" for kind in kinds if kind in REMEDIES), "")
        why = shown(str(error)) or kinds[0]
        raise ValueError(f"{shown(url)} cannot be {doing}: {why.rstrip('.')}{remedy}") from error


def has_bucket(store: Any, root: str) -> None:
    """Raise `FileNotFoundError` if `root` lies in a bucket, and there is none."""
    if _without_folders(store):
        store.info(root.partition("/")[0])


def make_room(store: Any, target: str) -> None:
    """Make the folder of the file `target`, where a store has folders."""
    if not _without_folders(store):
        store.makedirs(store._parent(target), exist_ok=True)


def _without_folders(store: Any) -> bool:
    protocols = (store.protocol,) if isinstance(store.protocol, str) else store.protocol
    return not WITHOUT_FOLDERS.isdisjoint(protocols)


def shown(text: str) -> str:
    """`text` without passwords and signatures of URLs in it, and without values of the environment that are secret."""
    text = re.sub(r"(?<=//)[^/@\s]*:[^@\s]*@", "…@", text)
    text = re.sub(r"([?&][\w.-]+=)[^&\s\"']+", r"\1…", text)
    for name, value in os.environ.items():
        if SECRETS.search(name) and len(value) >= 8:
            text = text.replace(value, "…")
    return text
