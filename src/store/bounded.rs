//! Answers that the store library holds in memory whole, cut off where no honest answer goes: listings, errors, receipts.

use std::fmt;

use futures::StreamExt as _;
use http::Method;
use object_store::client::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody};

/// The longest such answer that is read. The longest honest one is a page of Azure's listing: 5000 names of 1024 letters, each
/// of which may be escaped.
const LIMIT_BYTES: usize = 32 << 20;

/// True when what comes back is an object, which its reader takes piece by piece; asked before the request is sent.
pub(super) fn asks_for_object(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method() == Method::GET
        && !query.split('&').any(|pair| matches!(pair, "list-type=2" | "comp=list" | "uploads" | "uploads="))
}

/// The answer with its body read. Errors: `Decode`, which is not tried again, for one that is too long.
pub(super) async fn whole(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (head, body) = response.into_parts();
    let (mut pieces, mut content) = (body.bytes_stream(), Vec::new());
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        if content.len() + piece.len() > LIMIT_BYTES {
            return Err(HttpError::new(HttpErrorKind::Decode, TooLong));
        }
        content.extend_from_slice(&piece);
    }
    Ok(HttpResponse::from_parts(head, HttpResponseBody::from(content)))
}

/// Why an answer is not used.
#[derive(Debug)]
struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server's answer is longer than {LIMIT_BYTES} bytes")
    }
}

impl std::error::Error for TooLong {}

#[cfg(test)]
mod tests {
    use object_store::client::HttpRequestBody;

    use super::*;

    #[test]
    fn objects_are_told_from_listings_on_every_store() {
        for (method, query, expected) in [
            (Method::GET, "", true),
            (Method::GET, "?versionId=list-type=2x", true),
            (Method::GET, "?list-type=2&prefix=pfx%2F", false),
            (Method::GET, "?restype=container&comp=list", false),
            (Method::POST, "?delete", false),
            (Method::PUT, "", false),
        ] {
            let uri = format!("http://h/b/k{query}");
            let request = http::Request::builder().method(method.clone()).uri(uri).body(HttpRequestBody::empty());
            assert_eq!(asks_for_object(&request.unwrap()), expected, "{method} {query}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_and_one_without_end_is_given_up() {
        let answer = |bytes: usize| http::Response::new(HttpResponseBody::from(vec![b'x'; bytes]));
        assert_eq!(whole(answer(100)).await.unwrap().into_body().bytes().await.unwrap().len(), 100);
        assert!(whole(answer(LIMIT_BYTES)).await.is_ok());
        let error = whole(answer(LIMIT_BYTES + 1)).await.unwrap_err();
        assert_eq!(error.kind(), HttpErrorKind::Decode);
    }
}
