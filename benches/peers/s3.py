"""The few S3 requests the bench makes between runs: list and delete, so that every run finds the same empty place.

Written out here because the bench asks for nothing but Python itself. Signatures: AWS Signature Version 4.
"""

import base64
import contextlib
import hashlib
import hmac
import http.client
import re
import ssl
import urllib.parse
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path

REGION = "us-east-1"
# A request may delete so many objects.
DELETED_AT_ONCE = 1000


class Bucket:
    """One bucket of the server on this machine."""

    def __init__(self, port: int, authority: Path, key: str, secret: str, name: str) -> None:
        self._host = f"localhost:{port}"
        self._context = ssl.create_default_context(cafile=str(authority))
        self._key, self._secret, self.name = key, secret, name

    def create(self) -> None:
        """Makes the bucket; it is a fault when it is there."""
        self._request("PUT", {})

    def sizes(self, prefix: str) -> dict[str, int]:
        """Every key below `prefix` with its length in bytes."""
        found: dict[str, int] = {}
        query = {"list-type": "2", "prefix": prefix}
        while True:
            answer = ElementTree.fromstring(re.sub(rb' xmlns="[^"]*"', b"", self._request("GET", query), count=1))
            for item in answer.iter("Contents"):
                found[item.findtext("Key", "")] = int(item.findtext("Size", "0"))
            token = answer.findtext("NextContinuationToken")
            if not token:
                return found
            query["continuation-token"] = token

    def delete(self, keys: list[str]) -> None:
        """Removes the objects; it is a fault when the server refuses one."""
        for at in range(0, len(keys), DELETED_AT_ONCE):
            root = ElementTree.Element("Delete")
            ElementTree.SubElement(root, "Quiet").text = "true"
            for key in keys[at : at + DELETED_AT_ONCE]:
                ElementTree.SubElement(ElementTree.SubElement(root, "Object"), "Key").text = key
            answer = self._request("POST", {"delete": ""}, ElementTree.tostring(root))
            if b"<Error>" in answer:
                raise OSError(f"could not delete: {answer[:500]!r}")

    def _request(self, method: str, query: dict[str, str], body: bytes = b"") -> bytes:
        path, text = f"/{self.name}/", "&".join(f"{name}={_quoted(value)}" for name, value in sorted(query.items()))
        # A connection each time: between two requests lie minutes, and the server hangs up.
        with contextlib.closing(http.client.HTTPSConnection(self._host, context=self._context)) as connection:
            connection.request(method, f"{path}?{text}", body, self._signed(method, path, text, body))
            response = connection.getresponse()
            answer = response.read()
        if response.status >= 300:
            raise OSError(f"{method} {path}?{text}: {response.status} {answer[:500]!r}")
        return answer

    def _signed(self, method: str, path: str, query: str, body: bytes) -> dict[str, str]:
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        headers = {"host": self._host, "x-amz-content-sha256": digest, "x-amz-date": now}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        canonical = hashlib.sha256("\n".join([method, path, query, lines, names, digest]).encode()).hexdigest()
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        key = f"AWS4{self._secret}".encode()
        for word in scope.split("/"):
            key = hmac.digest(key, word.encode(), "sha256")
        signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{canonical}".encode(), "sha256").hex()
        headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={self._key}/{scope},SignedHeaders={names},Signature={signature}"
        headers["content-md5"] = base64.b64encode(hashlib.md5(body).digest()).decode()
        return headers


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="-_.~")
