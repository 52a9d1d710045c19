//! Uploads in parts: nothing is visible before all of it is.

use bytes::Bytes;
use object_store::{MultipartUpload, PutMultipartOptions, PutPayload};

use super::{Metadata, Store, failure, path_of};
use crate::error::{ErrorKind, Result};

/// An upload in parts, open until completed or aborted.
#[derive(Debug)]
pub struct Upload {
    store: Store,
    key: String,
    inner: Box<dyn MultipartUpload>,
    sent_bytes: u64,
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
        Ok(Upload { store: self.clone(), key: key.to_owned(), inner, sent_bytes: 0 })
    }
}

impl Upload {
    /// Starts sending the next part; the future must be awaited for it to be sent. Every part but the last must be
    /// as long as the first (some S3 servers insist) and at least 5 MiB.
    pub fn send_part(&mut self, part: Bytes) -> impl Future<Output = Result<()>> + Send + 'static {
        let (store, key) = (self.store.clone(), self.key.clone());
        self.sent_bytes += part.len() as u64;
        let sending = self.inner.put_part(PutPayload::from(part));
        async move {
            let failed = |error| store.not_absent(failure::describe("upload a part of object", &key, error));
            sending.await.map_err(failed)
        }
    }

    /// Makes the object visible, whole. Durable when it returns.
    ///
    /// A request that was carried out and whose answer was lost is answered "no such upload" when it is repeated: then the object
    /// is looked for, which nobody else writes under this key, and must be as long as what was sent.
    pub async fn complete(&mut self) -> Result<()> {
        let Err(error) = self.inner.complete().await else { return Ok(()) };
        let error = failure::describe("complete upload of object", &self.key, error);
        if error.kind() != ErrorKind::NotFound {
            return Err(error);
        }
        match self.store.head(&self.key).await? {
            Some((bytes, _)) if bytes == self.sent_bytes => Ok(()),
            _ => Err(self.store.not_absent(error)),
        }
    }

    /// Throws the parts away. Azure has no request for that: it drops parts that nothing came of after a week.
    pub async fn abort(&mut self) -> Result<()> {
        let outcome = self.inner.abort().await;
        outcome.map_err(|error| failure::describe("abort upload of object", &self.key, error))
    }
}
