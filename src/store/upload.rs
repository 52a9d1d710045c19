//! Uploads in parts: nothing is visible before all of it is.

use bytes::Bytes;
use object_store::{MultipartUpload, PutMultipartOptions, PutPayload};

use super::{Metadata, Store, failure, path_of};
use crate::error::Result;

/// An upload in parts, open until completed or aborted.
#[derive(Debug)]
pub struct Upload {
    key: String,
    inner: Box<dyn MultipartUpload>,
}

impl Store {
    /// Begins an upload in parts. Nothing is visible under `key` before [`Upload::complete`].
    pub async fn begin_upload(&self, key: &str) -> Result<Upload> {
        let options = PutMultipartOptions {
            tags: self.labels.tags(),
            attributes: self.labels.attributes(&Metadata::new()),
            ..PutMultipartOptions::default()
        };
        let inner = self
            .objects
            .put_multipart_opts(&path_of(key)?, options)
            .await
            .map_err(|error| self.not_absent(failure::describe("begin upload of object", key, error)))?;
        Ok(Upload { key: key.to_owned(), inner })
    }
}

impl Upload {
    /// Starts sending the next part; the future must be awaited for it to be sent. Every part but the last must be
    /// as long as the first (some S3 servers insist) and at least 5 MiB.
    pub fn send_part(&mut self, part: Bytes) -> impl Future<Output = Result<()>> + Send + 'static {
        let key = self.key.clone();
        let sending = self.inner.put_part(PutPayload::from(part));
        async move { sending.await.map_err(|error| failure::describe("upload a part of object", &key, error)) }
    }

    /// Makes the object visible, whole. Durable when it returns.
    pub async fn complete(&mut self) -> Result<()> {
        let outcome = self.inner.complete().await;
        outcome.map(drop).map_err(|error| failure::describe("complete upload of object", &self.key, error))
    }

    /// Throws the parts away. Azure has no request for that: it drops parts that nothing came of after a week.
    pub async fn abort(&mut self) -> Result<()> {
        let outcome = self.inner.abort().await;
        outcome.map_err(|error| failure::describe("abort upload of object", &self.key, error))
    }
}
