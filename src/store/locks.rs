//! What S3's object lock holds.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderMap, Method, StatusCode};

use super::service::{Service, Target};
use super::{Store, failure};
use crate::error::{Error, ErrorKind, Result};

/// Why an object cannot be deleted for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectLock {
    /// Until a legal hold is lifted.
    Hold,
    /// Until then, or longer.
    Until(DateTime<Utc>),
}

impl Store {
    /// Whether objects can be locked here at all: one request, on S3 only. None where we may not ask.
    pub async fn can_lock(&self) -> Result<Option<bool>> {
        if !matches!(&*self.service, Service::S3 { .. }) {
            return Ok(Some(false));
        }
        let target = Target::About("object-lock");
        let answer = self.service.exchange(&Method::GET, target, Bytes::new(), self.retry_timeout).await?;
        let answer = answer.map_err(|error| {
            let cause = failure::root_cause(&error);
            let bucket = self.place.container();
            Error::new(ErrorKind::Unreachable, format!("could not look for locks of bucket \"{bucket}\": {cause}"))
        })?;
        Ok(match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => None,
            // A bucket without locks, and servers that have not heard of them, answer with an error.
            status => Some(status.is_success()),
        })
    }

    /// Whether S3's object lock keeps the current version of an object from being deleted: a legal hold, or a retention that
    /// has not ended. Other stores have no such lock, and an object that is not there has none.
    pub async fn is_locked(&self, key: &str) -> Result<bool> {
        Ok(self.lock_of(key).await?.is_some())
    }

    /// The same, and what the lock is.
    pub async fn lock_of(&self, key: &str) -> Result<Option<ObjectLock>> {
        if !matches!(&*self.service, Service::S3 { .. }) {
            return Ok(None);
        }
        let answer =
            self.service.exchange(&Method::HEAD, Target::Object(key), Bytes::new(), self.retry_timeout).await?;
        let answer = answer.map_err(|error| {
            let cause = failure::root_cause(&error);
            Error::new(ErrorKind::Unreachable, format!("could not look for object \"{key}\": {cause}"))
        })?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => ObjectLock::of_headers(&answer.headers, Utc::now())
                .map_err(|error| error.context(format!("could not read the lock of object \"{key}\""))),
            _ => Err(answer.error(&format!("could not look for object \"{key}\""))),
        }
    }
}

impl ObjectLock {
    /// The lock that an object has at `now`, as the headers of its version tell. Errors: `Corrupt` for what is no date.
    pub fn of_headers(headers: &HeaderMap, now: DateTime<Utc>) -> Result<Option<Self>> {
        let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if text("x-amz-object-lock-legal-hold").is_some_and(|hold| hold.eq_ignore_ascii_case("ON")) {
            return Ok(Some(Self::Hold));
        }
        let Some(until) = text("x-amz-object-lock-retain-until-date") else { return Ok(None) };
        let read = DateTime::parse_from_rfc3339(&until);
        let read = read.map_err(|_| Error::corrupt(format!("\"{}\" is not a date", until.escape_debug())))?;
        Ok(Some(read.to_utc()).filter(|until| *until > now).map(Self::Until))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_lock_is_a_hold_or_a_retention_that_has_not_ended() {
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        let lock = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            ObjectLock::of_headers(&headers.collect(), now)
        };
        let (hold, until) = ("x-amz-object-lock-legal-hold", "x-amz-object-lock-retain-until-date");
        assert_eq!(lock(&[]).unwrap(), None);
        assert_eq!(lock(&[(hold, "ON")]).unwrap(), Some(ObjectLock::Hold));
        assert_eq!(lock(&[(hold, "OFF"), (until, "2026-11-24T11:59:59Z")]).unwrap(), None);
        let later = "2026-11-24T12:00:01Z".parse().unwrap();
        assert_eq!(lock(&[(until, "2026-11-24T12:00:01.000Z")]).unwrap(), Some(ObjectLock::Until(later)));
        assert!(lock(&[(until, "soon")]).is_err());
    }
}
