//! Deleting objects: one that is not there is deleted.

use futures::{StreamExt, stream};
use object_store::ObjectStoreExt;
use std::sync::atomic::Ordering;

use super::retry::Tries;
use super::{Place, Store, failure, path_of};
use crate::error::{Error, Result};

/// Requests on their way where each deletes one object; as many as the store library has at Google.
const SINGLES_AT_ONCE: usize = 10;

impl Store {
    /// Deletes one object; one that is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<()> {
        // Of the library's own, S3's is a deletion of several, which not every server knows.
        if self.deletes_one_by_one() || matches!(self.place, Place::S3 { .. }) {
            return self.delete_one(key).await;
        }
        match self.objects.delete(&path_of(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure::describe("delete object", key, error)),
        }
    }

    /// Whether several objects cannot be deleted with one request here, as far as that was seen.
    #[must_use]
    pub fn lacks_batches(&self) -> bool {
        self.lacks_batches.load(Ordering::Relaxed)
    }

    /// Deletes objects, as many at a time as the store takes in one request (see [`Self::batch_limit`]; Google Cloud Storage,
    /// directories, Azure with a signature and S3 servers that do not know the request take one, and are sent ten at once). Gives those that could not be deleted, and why; an object that is
    /// not there counts as deleted.
    ///
    /// Errors: where a whole request failed; what it asked for may have been deleted in part.
    pub async fn delete_batch(&self, keys: &[String]) -> Result<Vec<(String, Error)>> {
        let mut failed = Vec::new();
        for keys in keys.chunks(self.batch_limit()) {
            if keys.len() == 1 || self.deletes_one_by_one() || self.lacks_batches() {
                failed.extend(self.delete_singly(keys).await);
            } else {
                let refused = if let Some(refused) = self.delete_at_once(keys).await? {
                    refused
                } else {
                    tracing::info!("the store does not delete several objects with one request: one at a time then");
                    self.lacks_batches.store(true, Ordering::Relaxed);
                    self.delete_singly(keys).await
                };
                failed.extend(refused);
            }
        }
        Ok(failed)
    }

    async fn delete_singly(&self, keys: &[String]) -> Vec<(String, Error)> {
        let outcomes = stream::iter(keys).map(|key| async move { (key, self.delete(key).await) });
        let outcomes: Vec<_> = outcomes.buffered(SINGLES_AT_ONCE).collect().await;
        outcomes.into_iter().filter_map(|(key, outcome)| Some((key.clone(), outcome.err()?))).collect()
    }

    /// How many objects [`Self::delete_batch`] asks for in one go; the limits of Barman 3.19.1.
    #[must_use]
    pub fn batch_limit(&self) -> usize {
        match self.place {
            Place::S3 { .. } | Place::Directory(_) => 1000,
            Place::Azure { .. } => 256,
            Place::Gcs { .. } => 100,
        }
    }

    /// Whether Barman 3.19.1 deletes a whole directory of WAL by its prefix here, and not WAL file by WAL file: on S3; and in
    /// directories, which it does not know.
    #[must_use]
    pub fn deletes_prefixes(&self) -> bool {
        matches!(self.place, Place::S3 { .. } | Place::Directory(_))
    }

    /// None where the server does not know the request: nothing was deleted.
    async fn delete_at_once(&self, keys: &[String]) -> Result<Option<Vec<(String, Error)>>> {
        let mut tries = Tries::within(self.retry_timeout);
        loop {
            let paths = keys.iter().map(|key| path_of(key)).collect::<Result<Vec<_>>>()?;
            let outcomes: Vec<_> = self.objects.delete_stream(stream::iter(paths).map(Ok).boxed()).collect().await;
            if outcomes.len() == keys.len() {
                // The library answers in the order it was asked.
                let failed = keys.iter().zip(outcomes).filter_map(|(key, outcome)| match outcome {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => None,
                    Err(error) => Some((key.clone(), failure::describe("delete object", key, error))),
                });
                return Ok(Some(failed.collect()));
            }
            // One error for all of them: the request itself failed.
            let Some(error) = outcomes.into_iter().find_map(Result::err) else {
                let what =
                    format!("could not delete {} objects: the store did not answer for each of them", keys.len());
                return Err(Error::new(crate::error::ErrorKind::Unreachable, what));
            };
            if failure::is_not_understood(&error) && matches!(self.place, Place::S3 { .. }) {
                return Ok(None);
            }
            // Deleting twice does no harm, which the store library does not take for granted.
            let again = failure::answer_was_lost(&error) && tries.are_left();
            let error = failure::describe("delete objects beginning with", &keys[0], error);
            if !again {
                return Err(error);
            }
            tracing::info!("{error}; trying again");
            tries.pause().await;
        }
    }
}
