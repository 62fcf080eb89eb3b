"""A folder of a bucket, and what can go wrong with one, in sentences."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 — the library's own
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
from mien_client.cli import CommandError
from mien_client.reading import open_regular

from mien_serving.repository.command import SCHEME

PART: Final = 8 * 1024 * 1024
"""Bytes that are sent in one piece. A larger file goes in parts, and goes on at the first one that is missing."""

_MOST_PARTS: Final = 10_000
_CHUNK: Final = 1024 * 1024
_SHA256: Final = "sha256"
_REFUSED: Final = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}

_ONE_OBJECT: Final = {"NoSuchKey", "404", "InvalidObjectState", "InvalidRange", "416"}
"""Errors that say nothing of other objects: it has gone, is in an archive, or is shorter than it was."""

Advance = Callable[[int], object]
"""Told how many bytes have got through."""


class ObjectError(CommandError):
    """The storage refuses one object; it may well give others."""


class AlreadyThereError(Exception):
    """Somebody else has put an object there meanwhile."""


class Bucket:
    """The objects under a prefix.

    Args:
        url: ``s3://bucket/prefix``; the prefix may be empty.
        endpoint_url: Where the storage is; AWS, or what the environment says, if not given.

    Raises:
        CommandError: By every method, when the storage cannot be asked or refuses.
    """

    def __init__(self, url: str, endpoint_url: str | None = None) -> None:
        self._bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"{SCHEME}{self._bucket}/{self._prefix}"
        self._endpoint = endpoint_url or "the storage"
        if not self._bucket:
            raise CommandError(f"{url} names no bucket; write s3://BUCKET/PREFIX")
        # Checksums are sent and compared by this module, in the one form that all storages know.
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with self._telling():
            try:
                self._client: Any = boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)
            except ValueError as error:
                raise CommandError(f"{endpoint_url or 'AWS_ENDPOINT_URL'} cannot be asked: {error}") from None
            self._endpoint = self._client.meta.endpoint_url

    def objects(self) -> dict[str, int]:
        """The bytes of every object, by what follows the prefix in its key."""
        with self._telling():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            return {
                found["Key"].removeprefix(self._prefix): found["Size"]
                for page in pages
                for found in page.get("Contents", ())
            }

    def read(self, key: str, limit: int) -> bytes:
        """Return the first bytes of an object, one more than ``limit`` if it has more."""
        with self._telling():
            return bytes(self._client.get_object(**self._named(key))["Body"].read(limit + 1))

    def sha256(self, key: str) -> str:
        """What an object's SHA-256 was said to be when it was put there; empty if nothing was said."""
        with self._telling():
            return str(self._client.head_object(**self._named(key))["Metadata"].get(_SHA256, ""))

    def fetch(self, key: str, target: BinaryIO, size: int, advance: Advance) -> None:
        """Append what follows of an object to a file that holds its beginning, up to a size in bytes."""
        there = target.seek(0, os.SEEK_END)
        with self._telling():
            body = self._client.get_object(**self._named(key), Range=f"bytes={there}-")["Body"]
            while chunk := body.read(min(_CHUNK, size - there)):
                target.write(chunk)
                advance(len(chunk))
                there += len(chunk)

    def put(self, key: str, path: Path, digest: str, advance: Advance) -> None:
        """Puts a file there, in parts if it is large; the storage compares what it gets with checksums."""
        with os.fdopen(open_regular(path, follow_links=False), "rb") as stream, self._telling():
            size = os.fstat(stream.fileno()).st_size
            if size > PART:
                self._put_parts(key, stream, digest, max(PART, -(-size // _MOST_PARTS)), advance)
                return
            data = stream.read()
            self._client.put_object(
                **self._named(key), Body=data, ChecksumSHA256=_base64_sha256(data), Metadata={_SHA256: digest}
            )
            advance(size)

    def put_new(self, key: str, data: bytes) -> None:
        """Puts a small object there, if there is none.

        Raises:
            AlreadyThereError: There is one.
        """
        with self._telling():
            try:
                self._client.put_object(
                    **self._named(key), Body=data, ChecksumSHA256=_base64_sha256(data), IfNoneMatch="*"
                )
            except ClientError as error:
                if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict"):
                    raise AlreadyThereError from None
                raise

    def _put_parts(self, key: str, stream: BinaryIO, digest: str, part_size: int, advance: Advance) -> None:
        upload, there = self._begun(key)
        if not upload:
            upload = self._client.create_multipart_upload(
                **self._named(key), ChecksumAlgorithm="SHA256", Metadata={_SHA256: digest}
            )["UploadId"]
        parts = []
        for number, data in enumerate(iter(lambda: stream.read(part_size), b""), start=1):
            checksum = _base64_sha256(data)
            tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
            if there.get(number) != tag:
                tag = self._client.upload_part(
                    **self._named(key), UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=checksum
                )["ETag"]
            parts.append({"PartNumber": number, "ETag": tag, "ChecksumSHA256": checksum})
            advance(len(data))
        self._client.complete_multipart_upload(**self._named(key), UploadId=upload, MultipartUpload={"Parts": parts})

    def _begun(self, key: str) -> tuple[str, dict[int, str]]:
        """An upload in parts that an interrupted run has begun, and the tags of its parts."""
        found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=f"{self._prefix}{key}")
        for upload in found.get("Uploads", ()):
            if upload["Key"] == f"{self._prefix}{key}":
                pages = self._client.get_paginator("list_parts").paginate(
                    **self._named(key), UploadId=upload["UploadId"]
                )
                parts = {part["PartNumber"]: part["ETag"] for page in pages for part in page.get("Parts", ())}
                return upload["UploadId"], parts
        return "", {}

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{key}"}

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turns the library's errors into sentences."""
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound, CredentialRetrievalError) as error:
            raise CommandError(
                f"there are no credentials for {self.url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                f"AWS_PROFILE ({error})"
            ) from None
        except TokenRetrievalError as error:
            raise CommandError(f"the credentials for {self.url} have ended: log in again ({error})") from None
        except (HTTPClientError, ConnectionError) as error:
            raise CommandError(
                f"{self._endpoint} does not answer: {error}. What has been copied is kept; run the same command again"
            ) from None
        except ClientError as error:
            kind = ObjectError if error.response["Error"]["Code"] in _ONE_OBJECT else CommandError
            raise kind(self._refusal(error)) from None
        except ParamValidationError as error:
            raise CommandError(f"{self.url} cannot be asked for: {error}") from None
        except BotoCoreError as error:
            raise CommandError(f"{self._endpoint}: {error}") from None

    def _refusal(self, error: ClientError) -> str:
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            return f"there is no bucket {self._bucket} at {self._endpoint}; create it, or name another"
        if code in _REFUSED:
            return f"{self._endpoint} refuses these credentials what they are used for at {self.url}: {error}"
        return f"{self._endpoint}: {error}"


def _base64_sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
