"""A prefix of an S3 bucket; the errors of the S3 library become sentences."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
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
from mien_client.reading import open_regular

from mien_serving.repository.errors import RepositoryError
from mien_serving.repository.sync import SCHEME
from mien_serving.repository.sync.progress import Advance

PART: Final = 8 * 1024 * 1024
"""Bytes that are sent in one request. A larger file is sent in parts, and continues at the first missing part."""

_MOST_PARTS: Final = 10_000
_CHUNK: Final = 1024 * 1024
_SHA256: Final = "sha256"
_REFUSED: Final = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}

_ONE_OBJECT: Final = {"NoSuchKey", "404", "InvalidObjectState", "InvalidRange", "416"}
"""Errors that concern one object only: it is gone, is archived, or is shorter than it was."""


class ObjectError(RepositoryError):
    """The storage refuses one object; others may be available."""


class AlreadyThereError(Exception):
    """Another process has stored the object meanwhile."""


class Bucket:
    """The objects under a prefix.

    Args:
        url: ``s3://bucket/prefix``; the prefix may be empty.
        endpoint_url: The URL of the storage; defaults to ``AWS_ENDPOINT_URL`` in the environment, or AWS.

    Attributes:
        url: The URL, with a slash at its end.

    Raises:
        RepositoryError: By every method, if the storage cannot be reached or refuses the request.
    """

    def __init__(self, url: str, endpoint_url: str | None = None) -> None:
        self._bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"{SCHEME}{self._bucket}/{self._prefix}"
        self._endpoint = endpoint_url or "the storage"
        if not self._bucket:
            raise RepositoryError(f"Expected s3://BUCKET/PREFIX, got {url}, which has no bucket")
        # This module sends and compares checksums itself, in the one form that every storage supports.
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with self._readable_errors():
            try:
                self._client: Any = boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)
            except ValueError as error:
                raise RepositoryError(
                    f"{endpoint_url or 'AWS_ENDPOINT_URL'} is not a valid URL of a storage: {error}"
                ) from None
            self._endpoint = self._client.meta.endpoint_url

    def objects(self) -> dict[str, int]:
        """Return the size of every object in bytes, by its key without the prefix."""
        with self._readable_errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            return {
                found["Key"].removeprefix(self._prefix): found["Size"]
                for page in pages
                for found in page.get("Contents", ())
            }

    def read(self, key: str, limit: int) -> bytes:
        """Return the content of an object; of one with more than ``limit`` bytes, the first ``limit + 1``."""
        with self._readable_errors():
            return bytes(self._client.get_object(**self._named(key))["Body"].read(limit + 1))

    def sha256(self, key: str) -> str:
        """Return the SHA-256 that was stored with an object; empty if none was."""
        with self._readable_errors():
            return str(self._client.head_object(**self._named(key))["Metadata"].get(_SHA256, ""))

    def fetch(self, key: str, target: BinaryIO, size: int, advance: Advance) -> None:
        """Append the rest of an object to a file that holds its beginning, up to ``size`` bytes in all."""
        there = target.seek(0, os.SEEK_END)
        with self._readable_errors():
            body = self._client.get_object(**self._named(key), Range=f"bytes={there}-")["Body"]
            while chunk := body.read(min(_CHUNK, size - there)):
                target.write(chunk)
                advance(len(chunk))
                there += len(chunk)

    def put(self, key: str, path: Path, digest: str, advance: Advance) -> None:
        """Store a file, in parts if it is large; the storage compares what it receives with checksums."""
        with os.fdopen(open_regular(path, follow_links=False), "rb") as stream, self._readable_errors():
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
        """Store a small object, unless there is one with this key.

        Raises:
            AlreadyThereError: There is an object with this key.
        """
        with self._readable_errors():
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
        """Return the upload in parts that an interrupted run has begun, and the tags of its parts."""
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
    def _readable_errors(self) -> Iterator[None]:
        """Turn the errors of the S3 library into sentences."""
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound, CredentialRetrievalError) as error:
            raise RepositoryError(
                f"There are no credentials for {self.url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                f"AWS_PROFILE ({error})"
            ) from None
        except TokenRetrievalError as error:
            raise RepositoryError(f"The credentials for {self.url} have expired: log in again ({error})") from None
        except (HTTPClientError, ConnectionError) as error:
            raise RepositoryError(
                f"{self._endpoint} does not answer: {error}. What has been copied is kept; run the same command again"
            ) from None
        except ClientError as error:
            kind = ObjectError if error.response["Error"]["Code"] in _ONE_OBJECT else RepositoryError
            raise kind(self._refusal(error)) from None
        except ParamValidationError as error:
            raise RepositoryError(f"{self.url} is not a valid location: {error}") from None
        except BotoCoreError as error:
            raise RepositoryError(f"{self._endpoint}: {error}") from None

    def _refusal(self, error: ClientError) -> str:
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            return f"{self._endpoint} has no bucket {self._bucket}; create it, or name another one"
        if code in _REFUSED:
            return f"{self._endpoint} does not allow these credentials to access {self.url}: {error}"
        return f"{self._endpoint}: {error}"


def _base64_sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
