//! What a failed request means, and how to say it in one line.

use std::error::Error as StdError;

use object_store::client::{HttpError, HttpErrorKind};

use super::{Place, retry};
use crate::error::{Error, ErrorKind};

/// Longest cause that is quoted: servers answer with whole XML documents.
const CAUSE_LIMIT_CHARS: usize = 400;

/// Turns a store library's error into ours: `could not <doing> "<key>": <cause>`.
///
/// Anything that is neither *not there* nor *refused* is `Unreachable`: the honest answer to an unknown failure is
/// that we could not find out.
pub(super) fn describe(doing: &str, key: &str, error: object_store::Error) -> Error {
    use object_store::Error as Failure;
    let kind = match &error {
        Failure::NotFound { .. } => ErrorKind::NotFound,
        _ if is_busy(&error) => ErrorKind::Unreachable,
        Failure::AlreadyExists { .. } | Failure::Precondition { .. } => ErrorKind::Conflict,
        Failure::PermissionDenied { .. } | Failure::Unauthenticated { .. } => ErrorKind::Denied,
        _ if was_refused(&error) => ErrorKind::Denied,
        Failure::InvalidPath { .. } | Failure::UnknownConfigurationKey { .. } => ErrorKind::Usage,
        Failure::JoinError { .. } => ErrorKind::Bug,
        _ if local_disk_failed(&error) => ErrorKind::Local,
        _ => ErrorKind::Unreachable,
    };
    let cause = if kind == ErrorKind::NotFound {
        "it is not there".to_owned()
    } else {
        let said = innermost(&error).to_string();
        one_line(&brief(said.strip_prefix(&format!("DeleteObjects request failed for key {key}: ")).unwrap_or(&said)))
    };
    let described = Error::new(kind, format!("could not {doing} \"{key}\": {cause}")).with_source(error);
    match retry::advice(&cause) {
        Some(advice) => described.with_hint(advice),
        None => described,
    }
}

/// True when the store refused a create-only put because the object is there: HTTP status 412, or a file of that name.
pub(super) fn condition_failed(error: &object_store::Error) -> bool {
    use object_store::Error as Failure;
    match error {
        Failure::AlreadyExists { source, .. } => source.is::<Failure>() || source.is::<std::io::Error>(),
        Failure::Precondition { .. } => true,
        _ => false,
    }
}

/// True for HTTP status 409, which the store library calls "already exists" whatever was asked: S3 answers so while
/// another request works on the same object or bucket. The object was not written, and need not be there.
pub(super) fn is_busy(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::AlreadyExists { .. }) && !condition_failed(error)
}

/// True for HTTP status 401 and 403 where the store library keeps the status in its text alone: for listings, and for objects
/// deleted with others.
fn was_refused(error: &object_store::Error) -> bool {
    let said = ["401", "403"].map(|status| format!("Server returned non-2xx status code: {status} "));
    let is_generic = matches!(error, object_store::Error::Generic { .. });
    let cause = root_cause(error);
    // The answer to a deletion of several has one code for each object.
    is_generic && (said.iter().any(|said| cause.starts_with(said.as_str())) || cause.ends_with("(code: AccessDenied)"))
}

/// What a store answers with 400 to a request that it does know.
const ABOUT_TIME_OR_CREDENTIALS: [&str; 6] = [
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestTime",
    "InvalidAccessKeyId",
    "AuthorizationHeader",
];

/// True when the server does not know the request: what comes of it is another request, not another try.
pub(super) fn is_not_understood(error: &object_store::Error) -> bool {
    let said = ["400", "405"].map(|status| format!("Server returned non-2xx status code: {status} "));
    let is_plain = matches!(error, object_store::Error::Generic { .. });
    let cause = root_cause(error);
    let is_otherwise = ABOUT_TIME_OR_CREDENTIALS.iter().any(|code| cause.contains(code));
    is_plain && !is_otherwise && said.iter().any(|said| cause.starts_with(said.as_str()))
}

/// True when the server cannot have an object of this name at all: `MinIO` about keys with an empty directory name in them.
///
/// The library keeps of S3's error codes only the document they came in.
pub(super) fn no_such_name(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. }) && root_cause(error).contains("<Code>XMinioInvalidObjectName<")
}

/// True when a listing failed because there is no such bucket or container: what S3 and Azure say in their documents.
pub(super) fn no_such_container(error: &object_store::Error) -> bool {
    let codes = ["<Code>NoSuchBucket<", "<Code>ContainerNotFound<"];
    matches!(error, object_store::Error::Generic { .. }) && codes.iter().any(|code| root_cause(error).contains(code))
}

/// True when the request may have been carried out and only its answer was lost: the connection broke, or it took too
/// long.
pub(super) fn answer_was_lost(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(http) = current.downcast_ref::<HttpError>() {
            return matches!(http.kind(), HttpErrorKind::Timeout | HttpErrorKind::Interrupted);
        }
        cause = current.source();
    }
    false
}

/// True when the cause is a full or broken local file system, which no other store would make better.
fn local_disk_failed(error: &object_store::Error) -> bool {
    use std::io::ErrorKind as Io;
    let object_store::Error::Generic { store: "LocalFileSystem", .. } = error else { return false };
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), Io::StorageFull | Io::ReadOnlyFilesystem | Io::PermissionDenied);
        }
        cause = current.source();
    }
    false
}

/// True when a certificate or the handshake was what failed.
pub(super) fn is_about_tls(error: &HttpError) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(current) = cause {
        if current.is::<rustls::Error>() {
            return true;
        }
        // What an I/O error wraps is not its source: its sources begin behind that.
        let inside = current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = inside.map(|inside| inside as &(dyn StdError + 'static)).or_else(|| current.source());
    }
    false
}

/// An encryption that belongs to another kind of store.
pub(super) fn foreign_encryption(place: &Place) -> Error {
    Error::usage(format!("could not use the encryption that was asked for: \"{place}\" is another kind of store"))
}

/// The innermost cause, on one line: the outer ones repeat the request.
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    one_line(&innermost(error).to_string())
}

fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

/// An answer of a store without its document: the status, and of S3's, Azure's and Google's error documents the code and the
/// message. What else is in them is ids of requests.
pub(super) fn brief(said: &str) -> String {
    let said = said.replace("Server returned non-2xx status code: ", "the store answered ");
    let text = |name: &str| {
        let (_, rest) = said.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim().to_owned())
    };
    let (Some(code), Some((status, _))) = (text("Code"), said.split_once('<')) else { return said };
    // Azure's messages go on, after a line break, with an id and a time.
    let message = text("Message").and_then(|message| message.lines().next().map(str::to_owned)).unwrap_or_default();
    let parts = [status.trim().trim_end_matches(':'), &code, &message];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

/// `text` without line breaks, and not too much of it.
pub(super) fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CAUSE_LIMIT_CHARS) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_error_document_the_code_and_the_message_are_told() {
        for (said, expected) in [
            (
                "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code>\
                 <Message>Access Denied.</Message><RequestId>18EB</RequestId></Error>",
                "the store answered 403 Forbidden: AccessDenied: Access Denied.",
            ),
            (
                "<?xml version=\"1.0\"?><Error><Code>AuthorizationFailure</Code><Message>No.\nRequestId:1\nTime:2</Message></Error>",
                "AuthorizationFailure: No.",
            ),
            ("Server returned non-2xx status code: 403 Forbidden: ", "the store answered 403 Forbidden: "),
            ("connection refused", "connection refused"),
            ("<html>no</html>", "<html>no</html>"),
        ] {
            assert_eq!(brief(said), expected);
        }
    }
}
