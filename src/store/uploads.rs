//! Uploads that were begun and never ended: nobody sees them, and somebody pays for them.

use std::path::Path;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Method, StatusCode};
use serde::Deserialize;

use super::service::{Service, Target};
use super::{Store, failure};
use crate::error::{Error, ErrorKind, Result};

/// Uploads asked for in one request: what is said of so many fits into an answer.
const PAGE: usize = 50;

/// More than this are for the next call.
const MOST_PAGES: usize = 100;

/// An upload that was begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// The object that would have come of it; in a directory the file with what was written of it.
    pub key: String,
    /// The store's name for the upload.
    id: String,
    /// When it was begun; of a file, when it was last written to.
    pub begun: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    upload: Vec<Upload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    #[serde(rename = "UploadId")]
    id: String,
    initiated: DateTime<Utc>,
}

impl Store {
    /// The open uploads of keys that begin with `prefix` (which ends in `/`), the first 5000; none where the store does not tell:
    /// Azure forgets what it was sent after a week, Google Cloud Storage by the bucket's rules.
    ///
    /// Needs `s3:ListBucketMultipartUploads`. `MinIO` tells of none unless asked for one key.
    pub async fn open_uploads(&self, prefix: &str) -> Result<Option<Vec<OpenUpload>>> {
        match &*self.service {
            Service::Directory(root) => staged_files(root, prefix).map(Some),
            Service::S3 { .. } => self.uploads_on_s3(prefix).await,
            Service::Azure { .. } | Service::Gcs { .. } => Ok(None),
        }
    }

    /// Ends an upload, and frees what it holds. One that is not there any more is no error.
    pub async fn abort_upload(&self, upload: &OpenUpload) -> Result<()> {
        let doing = format!("could not abort an upload of \"{}\"", upload.key);
        if let Service::Directory(root) = &*self.service {
            return match std::fs::remove_file(root.join(&upload.key)) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::new(ErrorKind::Local, format!("{doing}: {cause}")))
                }
                _ => Ok(()),
            };
        }
        let target = Target::Upload(&upload.key, &upload.id);
        let answer = self.service.exchange(&Method::DELETE, target, Bytes::new(), self.retry_timeout).await?;
        let answer = answer
            .map_err(|error| Error::new(ErrorKind::Unreachable, format!("{doing}: {}", failure::root_cause(&error))))?;
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(answer.error(&doing))
    }

    async fn uploads_on_s3(&self, prefix: &str) -> Result<Option<Vec<OpenUpload>>> {
        let doing = format!("could not list uploads to \"{prefix}\"");
        let mut uploads: Vec<OpenUpload> = Vec::new();
        for _ in 0..MOST_PAGES {
            let after = uploads.last().map(|last| (last.key.as_str(), last.id.as_str()));
            let target = Target::Uploads { prefix, after, at_most: PAGE };
            let answer = self.service.exchange(&Method::GET, target, Bytes::new(), self.retry_timeout).await?;
            let answer = answer.map_err(|error| {
                Error::new(ErrorKind::Unreachable, format!("{doing}: {}", failure::root_cause(&error)))
            })?;
            match answer.status {
                StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
                status if status.is_success() => {}
                _ => return Err(answer.error(&doing)),
            }
            let (page, goes_on) = OpenUpload::of_page(&answer.body)
                .map_err(|error| error.context(&doing).as_kind(ErrorKind::Unreachable))?;
            let is_last = !goes_on || page.is_empty();
            // A server that does not filter must not lead us to another server's uploads.
            let before = uploads.len();
            uploads.extend(page.into_iter().filter(|upload| upload.key.starts_with(prefix)));
            if is_last || uploads.len() == before {
                break;
            }
        }
        Ok(Some(uploads))
    }
}

impl OpenUpload {
    /// The uploads on a page of S3's `ListMultipartUploads`, and whether there are more behind it. Errors: `Corrupt`.
    pub fn of_page(xml: &[u8]) -> Result<(Vec<Self>, bool)> {
        let text = std::str::from_utf8(xml).map_err(|error| Error::corrupt(error.to_string()))?;
        let page: Page = quick_xml::de::from_str(text).map_err(|error| Error::corrupt(error.to_string()))?;
        let upload = |upload: Upload| Self { key: upload.key, id: upload.id, begun: upload.initiated };
        Ok((page.upload.into_iter().map(upload).collect(), page.is_truncated))
    }
}

/// The store library writes a file under its name, `#` and a number, and gives it its own name when it is whole.
fn staged_files(root: &Path, prefix: &str) -> Result<Vec<OpenUpload>> {
    let mut staged = Vec::new();
    let mut todo = vec![root.join(prefix)];
    while let Some(directory) = todo.pop() {
        let failed = |cause| Error::local("read store directory", &directory, cause).as_kind(ErrorKind::Unreachable);
        let entries = match std::fs::read_dir(&directory) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                todo.push(path);
            } else if let Some(key) = path.strip_prefix(root).ok().and_then(Path::to_str).filter(|key| is_staged(key))
                && let Ok(written) = entry.metadata().and_then(|facts| facts.modified())
            {
                staged.push(OpenUpload { key: key.to_owned(), id: String::new(), begun: written.into() });
            }
        }
    }
    staged.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(staged)
}

fn is_staged(key: &str) -> bool {
    key.rsplit_once('#').is_some_and(|(name, number)| {
        !name.ends_with('/') && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_uploads_is_read() {
        // The example in the S3 API reference, shortened.
        let page = OpenUpload::of_page(
            br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
              <Bucket>bucket</Bucket><KeyMarker/><UploadIdMarker/><NextKeyMarker>my-movie.m2ts</NextKeyMarker>
              <MaxUploads>3</MaxUploads><IsTruncated>true</IsTruncated>
              <Upload><Key>my-divisor</Key><UploadId>XMgbGlrZSBlbHZpbmc</UploadId>
                <Initiator><ID>arn</ID><DisplayName>user1</DisplayName></Initiator>
                <StorageClass>STANDARD</StorageClass><Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>
              <Upload><Key>my-movie.m2ts</Key><UploadId>VXBsb2FkIElE</UploadId>
                <Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>
            </ListMultipartUploadsResult>"#,
        );
        let (uploads, goes_on) = page.unwrap();
        assert!(goes_on);
        assert_eq!(uploads[1].key, "my-movie.m2ts");
        assert_eq!(uploads[0].begun.to_rfc3339(), "2010-11-10T20:48:33+00:00");
        let empty = OpenUpload::of_page(b"<ListMultipartUploadsResult></ListMultipartUploadsResult>");
        assert_eq!(empty.unwrap(), (Vec::new(), false));
        assert!(OpenUpload::of_page(b"<html>").is_err());
    }

    #[test]
    fn only_names_of_the_library_s_own_making_are_staged_files() {
        for (key, expected) in
            [("a/b#1", true), ("a/b.zst#12", true), ("a/b", false), ("a/#1", false), ("a/b#", false), ("a/b#x1", false)]
        {
            assert_eq!(is_staged(key), expected, "{key}");
        }
    }
}
