//! Questions about a store itself: what time it is there, what its bucket deletes, whether it honours create-only puts.

use chrono::{DateTime, TimeDelta, Utc};
use http::{Method, StatusCode};

use super::bucket_rules::BucketRule;
use super::service::{Service, Target};
use super::{Store, create_only};
use crate::error::{Error, ErrorKind, Result};

impl Store {
    /// How far the store's clock is ahead of this host's, give or take a second and the time of one request; none for a
    /// directory, and for a server that does not say what time it is. A refusal tells the time as well as any answer.
    ///
    /// Errors: `Unreachable` without an answer.
    pub async fn clock_ahead(&self) -> Result<Option<TimeDelta>> {
        let (method, target) = match &*self.service {
            Service::Directory(_) => return Ok(None),
            Service::S3 { .. } => (Method::HEAD, Target::Container),
            _ => (Method::GET, Target::Listing(self.place.prefix())),
        };
        let answer = self.ask(&method, target).await?;
        let said = answer.headers.get(http::header::DATE).and_then(|date| date.to_str().ok());
        let date = said.and_then(|text| DateTime::parse_from_rfc2822(text).ok());
        Ok(date.map(|date| date.to_utc() - Utc::now()))
    }

    /// The lifecycle rules of the bucket that are switched on; none for a directory, which has no such thing.
    ///
    /// Errors: `Denied` where they may not be seen, which is always so on Azure; `Unreachable`, `Corrupt`.
    pub async fn bucket_rules(&self) -> Result<Option<Vec<BucketRule>>> {
        let read = match &*self.service {
            Service::Directory(_) => return Ok(None),
            Service::Azure { .. } => {
                let message = "Azure shows lifecycle rules to those who manage the account alone";
                return Err(Error::new(ErrorKind::Denied, message));
            }
            Service::S3 { .. } => BucketRule::of_s3,
            Service::Gcs { .. } => BucketRule::of_google,
        };
        let answer = self.ask(&Method::GET, Target::About("lifecycle")).await?;
        match answer.status {
            status if status.is_success() => read(&answer.body).map(Some),
            // NoSuchLifecycleConfiguration: the bucket itself was there a moment ago.
            StatusCode::NOT_FOUND if matches!(&*self.service, Service::S3 { .. }) => Ok(Some(Vec::new())),
            _ => Err(self.refused("read the lifecycle rules of", &answer)),
        }
    }

    /// Whether a create-only put replaces no object, tried with the object `key`, whatever is remembered about it. The object
    /// stays; its content is [`super::PROBE`].
    pub async fn honours_create_only(&self, key: &str) -> Result<bool> {
        create_only::ask(self, key).await
    }
}
