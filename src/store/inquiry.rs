//! Questions about a store itself: what time it is there, what its bucket deletes, whether it honours create-only puts.

use chrono::{DateTime, TimeDelta, Utc};
use http::{Method, StatusCode};

use super::bucket_rules::BucketRule;
use super::service::{Service, Target};
use super::{Store, create_only};
use crate::error::{Error, ErrorKind, Result};

/// Longer names of servers are cut.
const SERVER_CHARS: usize = 60;

/// What a server says of itself beside any answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Greeting {
    /// How far its clock is ahead of this host's, give or take a second and the time of one request; none where it does not say
    /// what time it is.
    pub clock_ahead: Option<TimeDelta>,
    /// Its name for itself, the header `Server`.
    pub server: Option<String>,
}

impl Store {
    /// What time it is there, and what the server calls itself; nothing of a directory. A refusal tells both as well as any answer.
    ///
    /// Errors: `Unreachable` without an answer.
    pub async fn greeting(&self) -> Result<Greeting> {
        let (method, target) = match &*self.service {
            Service::Directory(_) => return Ok(Greeting::default()),
            Service::S3 { .. } => (Method::HEAD, Target::Container),
            _ => (Method::GET, Target::Listing(self.place.prefix())),
        };
        let answer = self.ask(&method, target).await?;
        let said = |name| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let date = said(http::header::DATE).and_then(|text| DateTime::parse_from_rfc2822(text).ok());
        let server = said(http::header::SERVER).map(|text| text.chars().take(SERVER_CHARS).collect());
        Ok(Greeting { clock_ahead: date.map(|date| date.to_utc() - Utc::now()), server })
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
